/**
 * The builds: the page (default); the library with its workers, for Node and Deno with the command (`--mode lib`) and for
 * browsers (`--mode browser`); and the test programs that run in Node, Deno and Chromium (`--mode suite`). `.wgsl` files are imported as text in all of them. Which test files
 * Vitest takes depends on its mode: `test` (quick; `full-unit`: with more tries), `whole` (drives the built command and page), `full` (all of it), `real` (downloads a real model).
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, defineConfig, type BuildOptions, type Plugin } from "vite";
import type { ViteUserConfig } from "vitest/config";

/** Imports a `.wgsl` file as its text; where size counts, in what browsers download, without comments and indents but with all of its lines. */
function wgsl(mode: string): Plugin {
  const isSmall = mode === "browser" || mode === "production";
  return {
    name: "wgsl",
    enforce: "pre",
    transform(code, id) {
      if (!id.endsWith(".wgsl")) return null;
      const text = isSmall ? code.replace(/^[ \t]+|[ \t]*\/\/.*$/gm, "") : code;
      return { code: `export default ${JSON.stringify(text)};`, map: null };
    },
  };
}

/**
 * Gives each worker one file with a fixed name beside the others, and leaves `new Worker(new URL("./x.js",
 * import.meta.url), ...)` in the output as it stands in the source: so bundlers of pages find the worker in the package,
 * and Node and browsers share its file. (Vite alone would bundle it apart, under a hashed name.)
 */
function workers(): Plugin {
  const IN_SOURCE = /(\bnew (?:Shared)?Worker\(\s*)new URL\("(\.[./\w-]*?)([\w-]+)\.ts", import\.meta\.url\)/;
  const ALL = new RegExp(IN_SOURCE, "g");
  return {
    name: "workers",
    enforce: "pre",
    async transform(code, id) {
      if (!id.startsWith(SOURCES) || !IN_SOURCE.test(code)) return null;
      for (const [, , folder, name] of code.matchAll(ALL)) {
        const file = (await this.resolve(`${folder}${name}.ts`, id))?.id;
        if (file === undefined) this.error(`${id} starts a worker that is not there: ${folder}${name}.ts`);
        this.emitFile({ type: "chunk", id: file, fileName: `${name}.js` });
      }
      return { code: code.replace(ALL, '$1WORKER_FILE("$3")'), map: null };
    },
    renderChunk(code) {
      const put = code.replace(/\bWORKER_FILE\("([^"]+)"\)/g, 'new URL("./$1.js", import.meta.url)');
      return put === code ? null : { code: put, map: null };
    },
  };
}

/** Leaves out what nothing imports any more: the files for Node behind conditions that are false in browsers. */
function onlyReached(): Plugin {
  return {
    name: "only-reached",
    generateBundle(_options, bundle) {
      const chunks = Object.values(bundle).filter((file) => file.type === "chunk");
      const reached = new Set(chunks.filter(({ isEntry }) => isEntry));
      for (const { code } of reached)
        for (const chunk of chunks) if (code.includes(`./${chunk.fileName}`)) reached.add(chunk);
      for (const chunk of chunks) if (!reached.has(chunk)) delete bundle[chunk.fileName];
    },
  };
}

/** Files of the page that its service worker keeps: all but licences and models, which have their own store. */
const isKept = (file: string): boolean => !/\.(gguf|map|md)$/.test(file);

/** Builds the page's service worker when the page is written, with the list of the files that it keeps. */
function offline(): Plugin {
  return {
    name: "offline",
    apply: "build",
    async writeBundle({ dir = "." }, bundle) {
      const files = [...Object.keys(bundle), ...readdirSync(PUBLIC)].filter(isKept).sort();
      const define = {
        PAGE_FILES: JSON.stringify(files.map((url) => ({ url, revision: revisionOf(dir, url) }))),
        "process.env.NODE_ENV": '"production"',
      };
      const input = fileURLToPath(new URL("demo/page/service-worker.ts", import.meta.url));
      await build({
        ...{ configFile: false, publicDir: false, logLevel: "warn", define },
        build: {
          ...{ outDir: dir, emptyOutDir: false, target: "es2023" },
          license: { fileName: "LICENSES-sw.md" },
          rolldownOptions: { input, output: { format: "iife", entryFileNames: "sw.js" } },
        },
      });
    },
  };
}

/** What tells a file from an earlier one of its name; null where the name does. */
function revisionOf(folder: string, file: string): string | null {
  if (file.startsWith("assets/")) return null;
  return createHash("sha256")
    .update(readFileSync(join(folder, file)))
    .digest("hex")
    .slice(0, 16);
}

const PUBLIC = "demo/public";

const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

const SOURCES = fileURLToPath(new URL("src/", import.meta.url)).replaceAll("\\", "/");

/** Not bundled: Node's own modules, Dawn's native library, and the browser driver of the tests. */
const outside = [/^node:/, "webgpu", "playwright", "commander"];

const TESTS: Record<string, string[]> = {
  whole: ["test/{browser,package,runtime}/**/*.test.ts"],
  full: ["test/{browser,package,runtime,full}/**/*.test.ts"],
  training: ["test/training/**/*.test.ts"],
  real: ["test/real/**/*.test.ts"],
};

export default defineConfig(({ mode }): ViteUserConfig => ({
  plugins: mode in BUILDS ? [wgsl(mode), workers()] : [wgsl(mode), offline()],
  publicDir: mode in BUILDS ? false : PUBLIC,
  base: "./",
  worker: { format: "es", plugins: () => [wgsl(mode)], rolldownOptions: { external: outside } },
  server: { headers: isolation },
  preview: { headers: isolation },
  test: {
    include: TESTS[mode] ?? ["test/{unit,tier,fault}/**/*.test.ts"],
    fileParallelism: mode !== "training" && mode !== "real",
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 120_000, // of what hangs: other jobs of the run share the cores
    hookTimeout: 60_000,
    chaiConfig: { truncateThreshold: 0 },
  },
  ...(mode === "browser" && { define: { BUILT_FOR_BROWSERS: "true" } }),
  build: BUILDS[mode]?.() ?? page(),
}));

const BUILDS: Record<string, () => BuildOptions> = { lib: library, browser: forBrowsers, suite };

function page() {
  return {
    outDir: "dist/page",
    target: "es2023",
    license: { fileName: "LICENSES.md" },
    rolldownOptions: { external: outside },
  };
}

/** For Node and Deno: the packages that it needs stay outside. */
function library(): BuildOptions {
  const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as { dependencies: object };
  return {
    ...bundle("dist/lib", {
      index: "src/index.ts",
      sim: "src/sim/index.ts",
      serve: "src/serve/index.ts",
      cli: "src/api/cli.ts",
    }),
    rolldownOptions: { external: [/^node:/, ...Object.keys(dependencies)] },
  };
}

/** For browsers: everything inside, so that it needs no bundler and no map of imports. */
function forBrowsers(): BuildOptions {
  return {
    ...bundle("dist/browser", { index: "src/index.ts", sim: "src/sim/index.ts" }),
    license: { fileName: "LICENSES.md" },
    rolldownOptions: {
      output: { minify: true }, // Vite's own `minify` leaves white space in libraries
      external: [/^node:/, "webgpu"],
      plugins: [onlyReached()],
    },
  };
}

function suite() {
  return bundle("dist/suite", {
    all: "test/runtime/all.ts",
    node: "test/runtime/node.ts",
    browser: "test/runtime/browser.ts",
    soak: "test/runtime/soak.ts",
    tested: "test/runtime/tested.ts",
    bench: "test/bench/bench.ts",
    eval: "test/bench/eval.ts",
    experts: "test/bench/experts.ts",
    screenshots: "test/browser/screenshots.ts",
  });
}

function bundle(outDir: string, entry: Record<string, string>) {
  const present = Object.fromEntries(Object.entries(entry).filter(([, file]) => existsSync(file)));
  return {
    outDir,
    target: "es2023",
    sourcemap: true,
    minify: false,
    lib: { entry: present, formats: ["es" as const] },
    rolldownOptions: { external: outside },
  };
}
