/** Builds the page with the policy comparison alone, and serves it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { serveFolders } from "../support/serve.ts";

const HTML =
  '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Compare</title>' +
  '<link rel="stylesheet" href="/entry.css"><body><script type="module" src="/entry.js"></script>';

export interface ComparePage {
  /** Of the page; a hash may follow. */
  address: string;
  close(): Promise<void>;
}

export async function serveComparePage(): Promise<ComparePage> {
  const folder = await mkdtemp(join(tmpdir(), "tidepool-compare-"));
  await build({
    configFile: false,
    logLevel: "error",
    worker: { format: "es" },
    build: {
      ...{ outDir: folder, emptyOutDir: false, target: "es2023", cssCodeSplit: false },
      rolldownOptions: {
        input: fileURLToPath(new URL("compare-entry.ts", import.meta.url)),
        output: { entryFileNames: "entry.js", assetFileNames: "entry[extname]" },
      },
    },
  });
  const server = await serveFolders({ "": folder }, { "/": HTML, "": HTML });
  return {
    address: server.address,
    close: async () => {
      await server.close();
      await rm(folder, { recursive: true });
    },
  };
}
