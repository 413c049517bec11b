/** Measures what a page downloads of the library: its own code, and what it contains of other packages. */
import { readFileSync } from "node:fs";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build, type Rolldown } from "vite";

export interface CodeSize {
  bytes: number;
  gzipBytes: number;
  brotliBytes: number;
}

/**
 * The sizes of all that the engine may load in a browser, each file compressed alone, with or without its dependencies; not
 * of "./sim", which only those load who replay traces.
 */
export async function measureSize({ withDependencies }: { withDependencies: boolean }): Promise<CodeSize> {
  const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as { dependencies: object };
  const inside = withDependencies ? [] : Object.keys(dependencies).map((name) => new RegExp(`^${name}(/|$)`));
  const external = [/^node:/, "webgpu", ...inside];
  const settings = { mode: "browser", logLevel: "silent" as const };
  const built = await build({ ...settings, build: { write: false, rolldownOptions: { external } } });
  const outputs = [built].flat() as Rolldown.RolldownOutput[];
  const codes = outputs.flatMap(({ output }) =>
    output.flatMap((file) => ("code" in file && file.fileName !== "sim.js" ? [file.code] : [])),
  );
  const sum = (measure: (code: string) => number): number =>
    codes.reduce((total, code) => total + measure(code), 0);
  return {
    bytes: sum((code) => Buffer.byteLength(code)),
    gzipBytes: sum((code) => gzipSync(code, { level: 9 }).length),
    brotliBytes: sum((code) => brotliCompressSync(code).length),
  };
}
