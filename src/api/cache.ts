/**
 * `tidepool cache`: looks at, checks, clears and carries what is stored in a cache folder. Prints text; the store is
 * the library's.
 */
import { readFile, writeFile } from "node:fs/promises";
import type { Engine } from "../engine.ts";
import { StoredCache } from "../stored.ts";

interface StoreFlags {
  cacheDir: string;
  json?: boolean;
  namespace?: string;
}

const ask = ({ cacheDir }: StoreFlags): StoredCache => new StoredCache({ directory: cacheDir });

/** One line a record, oldest first. */
export async function cacheList(flags: StoreFlags): Promise<string> {
  const entries = (await ask(flags).list()).sort((a, b) => a.createdAtMs - b.createdAtMs);
  if (flags.json) return JSON.stringify(entries);
  const lines = entries.map(
    ({ key, kind, blockIndex, tokens, bytes, createdAtMs }) =>
      `${key}  ${kind} ${blockIndex}  ${tokens} tokens  ${bytes} bytes  ${new Date(createdAtMs).toISOString()}`,
  );
  return [...lines, `${entries.length} records`].join("\n");
}

export async function cacheStats(flags: StoreFlags): Promise<string> {
  const stats = await ask(flags).stats();
  if (flags.json) return JSON.stringify(stats);
  const { disk } = stats;
  return `${disk.records} records, ${disk.bytes} of ${disk.budgetBytes} bytes`;
}

/** Checks every record; those that fail are dropped. */
export async function cacheVerify(flags: StoreFlags): Promise<string> {
  const { checked, bad } = await ask(flags).verify();
  if (flags.json) return JSON.stringify({ checked, bad });
  const reasons = Object.entries(bad).filter(([, count]) => count > 0);
  const problems = reasons.map(([reason, count]) => `${count} ${reason}`).join(", ") || "none bad";
  return `${checked} records checked, ${problems}`;
}

export async function cacheClear(flags: StoreFlags): Promise<string> {
  const { namespace } = flags;
  await ask(flags).clear(namespace === undefined ? {} : { namespace });
  return namespace === undefined ? "cleared" : `cleared namespace ${namespace}`;
}

/** Computes a prompt if it must, and writes its blocks as one file. */
export async function cacheExport(
  engine: Engine,
  prompt: string,
  chat: boolean,
  file: string,
): Promise<string> {
  const input = chat ? [{ role: "user", content: prompt }] : prompt;
  await engine.warm(input);
  await engine.cache.drain();
  const { archive, blocks, missing } = await engine.cache.export(input);
  await writeFile(file, archive);
  return `${blocks} blocks, ${archive.byteLength} bytes in ${file}${missing > 0 ? `; ${missing} blocks are missing` : ""}`;
}

export async function cacheImport(file: string, flags: StoreFlags): Promise<string> {
  const { keys, rejected } = await ask(flags).import(await readFile(file));
  const refused = Object.values(rejected).reduce((sum, count) => sum + count, 0);
  return `${keys.length} records taken in, ${refused} refused`;
}
