/** Which version of the package this is, by its package.json. */
import { readFileSync } from "node:fs";

export function version(): string {
  const here = import.meta.url; // not written inside of the URL: bundlers would take the file in
  const text = readFileSync(new URL("../../package.json", here), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
