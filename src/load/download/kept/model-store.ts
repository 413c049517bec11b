/**
 * The models that are kept on this machine or for this origin: where they lie, which there are, whether their bytes are
 * still those that came, and how they are removed. It downloads nothing (remote-load.ts does).
 */
import { RUNTIME } from "../../../base.ts";
import { TidepoolError } from "../../../errors.ts";
import { sourceDigest } from "../digest.ts";
import { openCacheFolder } from "./folder-cache.ts";
import { openOpfsFolder } from "./folder-opfs.ts";
import { parseKept, type Kept, type KeptFile } from "./kept-file.ts";
import { keyOf, payloadName, RecordFile, recordKeys, type ModelFolder } from "./model-folder.ts";
import { listedName } from "../remote-model.ts";

/** Name of the folder in a browser's storage. */
const STORE = "tidepool-models";

/** How long removing and checking wait for a download of the same model to end. */
const BUSY_MS = 2000;

/**
 * Where downloaded models are kept.
 *
 * @example
 * ```ts
 * const kept: ModelsOptions = { directory: "models" };
 * console.log((await models.list({ models: kept })).every(({ bytesKept, sizeBytes }) => bytesKept <= sizeBytes)); // true
 * ```
 */
export interface ModelsOptions {
  /**
   * Node and Deno: a folder; default: TIDEPOOL_MODELS, otherwise the user's cache folder. Browsers: the name of the store,
   * default "tidepool-models".
   */
  directory?: string | undefined;
  /** false: nothing is kept, and every load downloads the model. */
  keep?: boolean | undefined;
}

/** One file of a kept model, complete or not. */
export interface StoredModelFile {
  /** Name or path within the model. */
  file: string;
  sizeBytes: number;
  bytesKept: number;
  isComplete: boolean;
}

/** A kept model, complete or not. */
export interface StoredModel {
  /** The Hub id or URL that loads it. */
  name: string;
  files: StoredModelFile[];
  sizeBytes: number;
  bytesKept: number;
  /** Whether all its files are complete, as far as their download has begun. */
  isComplete: boolean;
  /** When its newest file was last written, in milliseconds since 1970. */
  atMs: number;
}

/** The outcome of checking kept models. Files that fail are removed, so that the next load downloads them again. */
export interface VerifyResult {
  checked: number;
  bad: { model: string; file: string; problem: string }[];
  /** Files that are not complete yet and so cannot be checked. */
  partial: number;
}

/** The folder that models are kept in; undefined if the browser has no storage for it. */
export async function openModelFolder(options: ModelsOptions = {}): Promise<ModelFolder | undefined> {
  if (options.keep === false) return undefined;
  if (RUNTIME === "browser") {
    const name = options.directory ?? STORE;
    return (await openOpfsFolder(name)) ?? (await openCacheFolder(name));
  }
  const { defaultModelsFolder, openFilesFolder } = await import("./folder-files.ts");
  return openFilesFolder(options.directory ?? defaultModelsFolder());
}

/** As above, but having none is an error. */
export async function needModelFolder(options: ModelsOptions): Promise<ModelFolder> {
  const folder = await openModelFolder(options);
  if (folder) return folder;
  throw new TidepoolError(
    "source",
    "models cannot be kept here: this browser has neither OPFS nor the Cache API",
  );
}

interface Entry {
  record: RecordFile;
  kept: Kept;
}

async function entries(folder: ModelFolder): Promise<Entry[]> {
  const keys = await recordKeys(folder);
  const all = await Promise.all(
    keys.map(async (key) => {
      const record = new RecordFile(folder, key);
      return { record, kept: parseKept(await record.load()) };
    }),
  );
  return all.filter((entry): entry is Entry => entry.kept !== undefined);
}

/** All models, by name. */
export async function listModels(folder: ModelFolder): Promise<StoredModel[]> {
  const byName = new Map<string, KeptFile[]>();
  for (const { kept } of await entries(folder)) {
    if (kept.kind === "file") byName.set(kept.model, [...(byName.get(kept.model) ?? []), kept]);
  }
  return [...byName].map(([name, files]) => summary(name, files)).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function summary(name: string, kept: readonly KeptFile[]): StoredModel {
  const files = kept.map(({ file, sizeBytes, have, isComplete }) => ({
    ...{ file, sizeBytes, isComplete },
    bytesKept: isComplete ? sizeBytes : have.reduce((sum, { start, end }) => sum + end - start, 0),
  }));
  return {
    name,
    files: files.sort((a, b) => (a.file < b.file ? -1 : 1)),
    sizeBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
    bytesKept: files.reduce((sum, file) => sum + file.bytesKept, 0),
    isComplete: files.every((file) => file.isComplete),
    atMs: Math.max(...kept.map(({ atMs }) => atMs)),
  };
}

/**
 * Removes a model, or one file of it, and gives the bytes that were freed.
 * @throws TidepoolError `not_found` where no such model is kept, `source` where it is in use.
 */
export async function removeModel(folder: ModelFolder, name: string): Promise<{ bytesFreed: number }> {
  const { model, file } = listedName(name);
  const mine = (await entries(folder)).filter(
    ({ kept }) =>
      kept.model === model && (file === undefined || (kept.kind !== "listing" && kept.file === file)),
  );
  if (!mine.some(({ kept }) => kept.kind === "file")) {
    throw new TidepoolError("not_found", `${name} is not kept in ${folder.place}`, { model: name });
  }
  let bytesFreed = 0;
  await whileFree(folder, mine, async () => {
    for (const { record, kept } of mine) {
      if (kept.kind === "file") bytesFreed += summary(model, [kept]).bytesKept;
      await folder.remove(payloadName(record.key));
      await record.remove();
    }
  });
  return { bytesFreed };
}

/** Reads every whole file of a model (of all models, without a name) and compares it with what was noted of it. */
export async function verifyModel(
  folder: ModelFolder,
  name?: string,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<VerifyResult> {
  const wanted = name === undefined ? undefined : listedName(name);
  const mine = (await entries(folder)).filter(
    ({ kept }) => wanted === undefined || kept.model === wanted.model,
  ) as { record: RecordFile; kept: KeptFile }[];
  const files = mine.filter(
    ({ kept }) => kept.kind === "file" && (wanted?.file === undefined || kept.file === wanted.file),
  );
  if (name !== undefined && files.length === 0) {
    throw new TidepoolError("not_found", `${name} is not kept in ${folder.place}`, { model: name });
  }
  const whole = files.filter(({ kept }) => kept.isComplete);
  const total = whole.reduce((sum, { kept }) => sum + kept.sizeBytes, 0);
  let done = 0;
  const bad: VerifyResult["bad"] = [];
  for (const entry of whole) {
    const problem = await problemOf(folder, entry, (bytes) => onProgress((done += bytes), total));
    if (problem === undefined) continue;
    bad.push({ model: entry.kept.model, file: entry.kept.file, problem });
    await whileFree(folder, [entry], async () => {
      await entry.record.remove();
      await folder.remove(payloadName(entry.record.key));
    });
  }
  return { checked: whole.length, bad, partial: files.length - whole.length };
}

async function problemOf(
  folder: ModelFolder,
  { record, kept }: { record: RecordFile; kept: KeptFile },
  onBytes: (bytes: number) => void,
): Promise<string | undefined> {
  const source = await folder.openKept(payloadName(record.key), kept.sizeBytes, kept.file);
  if (!source) return `it does not have ${kept.sizeBytes} bytes`;
  try {
    const digest = await sourceDigest(source, onBytes);
    return digest === kept.digest ? undefined : `its SHA-256 is ${digest}, expected ${kept.digest}`;
  } finally {
    await source.close();
  }
}

/** Does something while nobody downloads the model of these entries. */
async function whileFree(
  folder: ModelFolder,
  mine: readonly Entry[],
  work: () => Promise<void>,
): Promise<void> {
  const names = new Set(mine.map(({ kept }) => kept.lockName));
  const releases = [];
  try {
    for (const lockName of names) {
      const signal = AbortSignal.timeout(BUSY_MS);
      releases.push(await folder.lock(keyOf(lockName), signal).catch((error: unknown) => inUse(error)));
    }
    await work();
  } finally {
    for (const release of releases) await release();
  }
}

function inUse(error: unknown): never {
  if (!(error instanceof TidepoolError) || error.code !== "aborted") throw error;
  throw new TidepoolError("source", "the model is being downloaded by another tab or process");
}
