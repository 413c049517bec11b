/**
 * The builds: the page (default), the library with its worker and command (`--mode lib`), and the GPU suites that run
 * in Node, Deno and Chromium (`--mode suite`). `.wgsl` files are imported as text in all of them.
 */
import { defineConfig, type Plugin } from "vite";

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

const outside = [/^node:/, "webgpu"];

export default defineConfig(({ mode }) => ({
  plugins: [wgsl()],
  base: "./",
  worker: { format: "es", plugins: () => [wgsl()] },
  server: { headers: isolation },
  preview: { headers: isolation },
  test: {
    include: ["test/{unit,tier,fault}/**/*.test.ts"],
    pool: "forks",
    testTimeout: 60_000,
  },
  build: mode === "lib" ? library() : mode === "suite" ? suite() : { outDir: "dist/page", target: "es2023" },
}));

function library() {
  return {
    outDir: "dist/lib",
    target: "es2023",
    sourcemap: true,
    minify: false,
    lib: {
      entry: { index: "src/index.ts", worker: "src/worker/worker.ts", cli: "src/api/cli.ts" },
      formats: ["es" as const],
    },
    rolldownOptions: { external: outside },
  };
}

function suite() {
  return {
    outDir: "dist/suite",
    target: "es2023",
    minify: false,
    lib: { entry: { node: "test/runtime/node.ts" }, formats: ["es" as const] },
    rolldownOptions: { external: outside },
  };
}
