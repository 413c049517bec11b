/**
 * `tidepool cache`: looks at, checks, clears and carries what is stored in a cache folder. Prints text; the store is
 * the library's.
 */
import type { Command } from "commander";
import { inFile } from "../../errors.ts";
import type { ChatMessage } from "../../wire/protocol.ts";
import type { Engine } from "../../engine/engine.ts";
import { writePrivateFile } from "../../platform/private-files.ts";
import { StoredCache } from "../../engine/engine-cache.ts";
import { readBytes, texts } from "../flags.ts";
import { load, MODEL_HELP, withCacheOptions, withEngineOptions, type EngineFlags } from "../engine-flags.ts";
import { print } from "../print.ts";
import { keygen, privateKeyIn, publicKeyOf } from "./signing-keys.ts";

const TRUST_HELP =
  "An archive must be trusted like code: list the public keys that you trust (--trust), or let the library's `import(archive, { verify: n })` compute some of it again.";
const KEY_FILE = "tidepool-signing.pem";

interface StoreFlags {
  cacheDir: string;
  json?: boolean;
  namespace?: string;
  trust?: string[];
}

interface ExportFlags extends EngineFlags {
  out: string;
  chat?: boolean;
  sign?: string;
}

const ask = ({ cacheDir }: StoreFlags): StoredCache => new StoredCache({ directory: cacheDir });

/** One line a record, oldest first. */
async function cacheList(flags: StoreFlags): Promise<string> {
  const entries = (await ask(flags).list()).sort((a, b) => a.createdAtMs - b.createdAtMs);
  if (flags.json) return JSON.stringify(entries);
  const lines = entries.map(
    ({ key, kind, blockIndex, tokens, bytes, createdAtMs }) =>
      `${key}  ${kind} ${blockIndex}  ${tokens} tokens  ${bytes} bytes  ${new Date(createdAtMs).toISOString()}`,
  );
  return [...lines, `${entries.length} records`].join("\n");
}

async function cacheStats(flags: StoreFlags): Promise<string> {
  const stats = await ask(flags).stats();
  if (flags.json) return JSON.stringify(stats);
  const { disk } = stats;
  return `${disk.records} records, ${disk.bytes} of ${disk.budgetBytes} bytes`;
}

/** Checks every record; those that fail are dropped. */
async function cacheVerify(flags: StoreFlags): Promise<string> {
  const { checked, bad } = await ask(flags).verify();
  if (flags.json) return JSON.stringify({ checked, bad });
  const reasons = Object.entries(bad).filter(([, count]) => count > 0);
  const problems = reasons.map(([reason, count]) => `${count} ${reason}`).join(", ") || "none bad";
  return `${checked} records checked, ${problems}`;
}

async function cacheClear(flags: StoreFlags): Promise<string> {
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
  sign?: string,
): Promise<string> {
  const input: string | ChatMessage[] = chat ? [{ role: "user", content: prompt }] : prompt;
  await engine.warm(input);
  await engine.cache.drain();
  const { archive, blocks, missing } = await engine.cache.export(input, sign === undefined ? {} : { sign });
  await writePrivateFile(file, archive);
  return `${blocks} blocks, ${archive.byteLength} bytes in ${file}${missing > 0 ? `; ${missing} blocks are missing` : ""}`;
}

async function cacheImport(file: string, flags: StoreFlags): Promise<string> {
  const { cacheDir, namespace } = flags;
  const trust = flags.trust && (await Promise.all(flags.trust.map(publicKeyOf)));
  const store = new StoredCache({ directory: cacheDir, namespace, trust });
  const { keys, rejected, signedBy } = await store.import(await readBytes(file)).catch((error: unknown) => {
    throw inFile(file, error);
  });
  const refused = Object.values(rejected).reduce((sum, count) => sum + count, 0);
  const signer = signedBy === undefined ? "not signed" : `signed by ${signedBy}`;
  return `${keys.length} records imported, ${refused} refused; ${signer}`;
}

/** Adds the commands below `tidepool cache`. */
export function addCacheCommands(cache: Command): void {
  const line = (text: string): void => print(`${text}\n`);
  const store = (name: string, description: string) =>
    cache.command(name).description(description).requiredOption("--cache-dir <dir>", "the folder");
  store("ls", "list all records")
    .option("--json")
    .action(async (flags) => line(await cacheList(flags)));
  store("stats", "print how many records and bytes are stored")
    .option("--json")
    .action(async (flags) => line(await cacheStats(flags)));
  store("verify", "check every record and drop bad ones")
    .option("--json")
    .action(async (flags) => line(await cacheVerify(flags)));
  store("clear", "delete all records")
    .option("--namespace <name>", "delete only the records of this namespace")
    .action(async (flags) => line(await cacheClear(flags)));
  store("import", "import an exported file")
    .argument("<file>")
    .option("--namespace <name>", "import into this namespace")
    .option(
      "--trust <key>",
      "import only what this public key (or the key in this file) signed; repeatable",
      texts,
    )
    .addHelpText("after", `\n${TRUST_HELP}`)
    .action(async (file: string, flags) => line(await cacheImport(file, flags)));
  cache
    .command("keygen")
    .description("make a key pair for signing archives and print the public key")
    .option("--out <file>", "new file for the private key, readable by its owner only", KEY_FILE)
    .action(async ({ out }: { out: string }) => line(await keygen(out)));
  withCacheOptions(
    withEngineOptions(cache.command("export").description("write a prompt's blocks to one file")),
  )
    .argument("<model>", MODEL_HELP)
    .argument("<prompt>", "text")
    .requiredOption("--out <file>", "the file to write")
    .option("--chat", "put the prompt into the model's chat template")
    .option("--sign <keyfile>", "sign the file with this private key (PEM, as `cache keygen` writes it)")
    .addHelpText("after", `\n${TRUST_HELP}`)
    .action(async (model: string, prompt: string, flags: ExportFlags) => {
      const sign = flags.sign === undefined ? undefined : await privateKeyIn(flags.sign);
      const engine = await load(model, flags);
      try {
        line(await cacheExport(engine, prompt, flags.chat === true, flags.out, sign));
      } finally {
        await engine.close();
      }
    });
}
