/**
 * The builds: the page (default), the library with its worker and command (`--mode lib`), and the test programs that
 * run in Node, Deno and Chromium (`--mode suite`). `.wgsl` files are imported as text in all of them. Which test files
 * Vitest takes depends on its mode: `test` (quick), `whole` (drives the built command and page), `full` (all of it).
 */
import { existsSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import type { ViteUserConfig } from "vitest/config";

/** Imports a `.wgsl` file as its text. */
function wgsl(): Plugin {
  return {
    name: "wgsl",
    enforce: "pre",
    transform(code, id) {
      return id.endsWith(".wgsl") ? { code: `export default ${JSON.stringify(code)};`, map: null } : null;
    },
  };
}

const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** Not bundled: Node's own modules, Dawn's native library, and the browser driver of the tests. */
const outside = [/^node:/, "webgpu", "playwright", "commander"];

const TESTS: Record<string, string[]> = {
  whole: ["test/{browser,runtime}/**/*.test.ts"],
  full: ["test/{browser,runtime,full}/**/*.test.ts"],
  training: ["test/training/**/*.test.ts"],
};

export default defineConfig(({ mode }): ViteUserConfig => ({
  plugins: [wgsl()],
  base: "./",
  worker: { format: "es", plugins: () => [wgsl()], rolldownOptions: { external: outside } },
  server: { headers: isolation },
  preview: { headers: isolation },
  test: {
    include: TESTS[mode] ?? ["test/{unit,tier,fault}/**/*.test.ts"],
    fileParallelism: TESTS[mode] === undefined,
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    chaiConfig: { truncateThreshold: 0 },
  },
  build: mode === "lib" ? library() : mode === "suite" ? suite() : page(),
}));

function page() {
  return { outDir: "dist/page", target: "es2023", rolldownOptions: { external: outside } };
}

function library() {
  return bundle("dist/lib", {
    index: "src/index.ts",
    worker: "src/worker/worker.ts",
    cli: "src/api/cli.ts",
  });
}

function suite() {
  return bundle("dist/suite", {
    all: "test/runtime/all.ts",
    node: "test/runtime/node.ts",
    browser: "test/runtime/browser.ts",
    worker: "src/worker/worker.ts",
    bench: "test/bench/bench.ts",
    eval: "test/bench/eval.ts",
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
