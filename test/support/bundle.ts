/** Builds one TypeScript file with all that it imports into a script that Node can run in a thread. */
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "vite";

/** @returns where the script lies, in a folder of its own that the caller removes */
export async function bundleForNode(entry: string): Promise<URL> {
  const outDir = await mkdtemp(join(tmpdir(), "tidepool-bundle-"));
  await build({
    configFile: false,
    logLevel: "error",
    plugins: [
      {
        name: "wgsl",
        enforce: "pre",
        transform: (code, id) =>
          id.endsWith(".wgsl") ? { code: `export default ${JSON.stringify(code)};`, map: null } : null,
      },
    ],
    ssr: { noExternal: true, external: ["webgpu"] },
    build: {
      ssr: entry,
      outDir,
      target: "es2023",
      minify: false,
      rolldownOptions: { output: { entryFileNames: "entry.mjs", codeSplitting: false } },
    },
  });
  return pathToFileURL(join(outDir, "entry.mjs"));
}
