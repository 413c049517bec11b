/**
 * One face over all the files that a model may come in: GGUF (one file or shards) and safetensors (a folder with
 * config.json, tokenizer files and one or more weight files), from a path, a URL, Files or sources.
 * Opening reads headers and small JSON files; tensors are streamed in bounded pieces and never kept.
 * It does not know what the tensors mean (model/), nor how text becomes ids (text/).
 */
import { TidepoolError } from "../errors.ts";
import { arrangedTensors, type Arranged } from "./arranged.ts";
import { readGguf } from "./gguf.ts";
import type { GgufFile, GgufValue } from "./gguf.ts";
import { parsePythonJson } from "./json.ts";
import { readSafetensors } from "./safetensors.ts";
import { notOfItsKind } from "./mistaken.ts";
import { missing, needed, placeOf, type Locate, type ModelLocation, type ModelPlace } from "./place.ts";
import { baseName, PIECE_BYTES, readBounded } from "./source.ts";
import type { PieceOptions, Source, UrlOptions } from "./source.ts";
import type { TensorInfo } from "./tensor-type.ts";

export type { ModelLocation, TensorInfo };

const MAX_JSON_BYTES = 64 * 1024 * 1024;
const MAX_SHARDS = 1024;

export interface TensorPieceOptions extends Omit<PieceOptions, "buffer"> {
  /** Each piece is used before the next one is asked for: one buffer may serve for all of them. */
  isTransient?: boolean;
}

interface ModelFileBase {
  /** The name of the first file, or of the folder's weights. */
  name: string;
  tensors: Map<string, TensorInfo>;
  /** The files that hold weights, in shard order. */
  sources: Source[];
  /** Streams a tensor's bytes in order, in pieces of at most `pieceBytes` (default and limit: PIECE_BYTES). */
  readTensor(info: TensorInfo, options?: TensorPieceOptions): AsyncIterable<Uint8Array>;
  /** Closes all sources. */
  close(): Promise<void>;
}

export interface GgufModelFile extends ModelFileBase {
  format: "gguf";
  /** The keys of the first shard. */
  metadata: Map<string, GgufValue>;
}

/** Parsed JSON files of a safetensors folder; `undefined` where the folder lacks the file. */
export interface SafetensorsModelFile extends ModelFileBase {
  format: "safetensors";
  config: Record<string, unknown>;
  tokenizerJson: Record<string, unknown> | undefined;
  tokenizerConfig: Record<string, unknown> | undefined;
  generationConfig: Record<string, unknown> | undefined;
  /** The text of chat_template.jinja. */
  chatTemplate: string | undefined;
  /** How vectors are made of texts, where the folder is one of sentence-transformers. */
  sentence?: SentenceFiles;
}

/** The files that sentence-transformers puts beside a model's. */
export interface SentenceFiles {
  /** modules.json: what a text passes through, in order. */
  modules: readonly SentenceModule[];
  /** config.json of the module that pools. */
  pooling: Record<string, unknown> | undefined;
  /** The same of the modules that are a matrix; number i's tensors are called "dense_I", I being its place among all modules. */
  dense: readonly Record<string, unknown>[];
  /** config_sentence_transformers.json. */
  settings: Record<string, unknown> | undefined;
}

export interface SentenceModule {
  /** A class's name, such as "sentence_transformers.models.Pooling". */
  type: string;
  /** Its folder; "" for the model's. */
  path: string;
}

export type ModelFile = GgufModelFile | SafetensorsModelFile;

/**
 * Opens a model. Throws `not_found` naming a file that is missing, `invalid_file` naming file and field, `unsupported`,
 * `source` or `aborted`. Nothing stays open after a throw.
 */
export async function openModel(location: ModelLocation, options: UrlOptions = {}): Promise<ModelFile> {
  const opened: Source[] = [];
  const keep = (source: Source): Source => {
    opened.push(source);
    return source;
  };
  try {
    const place = await placeOf(location, options, keep);
    const model = await openAt(place, options.signal);
    await Promise.all(
      opened.filter((source) => !model.sources.includes(source)).map((source) => source.close()),
    );
    return model;
  } catch (error) {
    // The first failure is the one to tell; a handle that will not close cannot be helped.
    await Promise.allSettled(opened.map((source) => source.close()));
    throw error;
  }
}

async function openAt(place: ModelPlace, signal?: AbortSignal): Promise<ModelFile> {
  const { first } = place;
  if (first === undefined) return openSafetensors(place, signal);
  if (await isGguf(first, signal)) return openGguf(first, place, signal);
  if (/\.(safetensors|json|jinja)$/.test(first.name)) return openSafetensors(place, signal);
  throw invalid(first.name, "is neither a GGUF file nor a part of a safetensors model");
}

async function isGguf(source: Source, signal?: AbortSignal): Promise<boolean> {
  if (source.name.endsWith(".gguf")) return true;
  if (source.sizeBytes < 4) return false;
  const magic = await source.read(0, 4, signal);
  return String.fromCharCode(...magic) === "GGUF";
}

const SHARD_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

async function openGguf(named: Source, place: ModelPlace, signal?: AbortSignal): Promise<GgufModelFile> {
  const pattern = SHARD_NAME.exec(baseName(named.name));
  const isFirst = pattern === null || pattern[2] === "00001";
  const first = isFirst ? named : await needed(place, `${pattern[1]}-00001-of-${pattern[3]}.gguf`);
  const header = await readHeader(first, readGguf, signal);
  const count = shardCount(header, first.name);
  const shards = [{ source: first, header }];
  for (let i = 1; i < count; i++) {
    const source = await needed(place, shardName(first, i, count));
    shards.push({ source, header: await readHeader(source, readGguf, signal) });
  }
  if (count > 1) checkShards(shards);
  const tensors = new Map<string, TensorInfo>();
  shards.forEach((shard, i) => addTensors(tensors, shard.header.tensors, i, shard.source.name));
  const sources = shards.map((shard) => shard.source);
  return { format: "gguf", metadata: header.metadata, ...faceOf(first.name, tensors, sources) };
}

/** A file that is none of its kind is often something known in its place. */
async function readHeader<T>(
  source: Source,
  read: (source: Source, signal?: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  try {
    return await read(source, signal);
  } catch (error) {
    throw await notOfItsKind(source, error, signal);
  }
}

function shardCount(header: GgufFile, file: string): number {
  const count = header.metadata.get("split.count") ?? 1;
  // 0 is written by some tools for a file that was not split.
  if (count === 0) return 1;
  if (typeof count !== "number" || !Number.isInteger(count) || count < 1 || count > MAX_SHARDS) {
    throw invalid(file, `split.count is ${String(count)}, expected 1 to ${MAX_SHARDS}`);
  }
  return count;
}

function shardName(first: Source, index: number, count: number): string {
  const name = baseName(first.name);
  const pattern = SHARD_NAME.exec(name);
  if (pattern === null || Number(pattern[3]) !== count) {
    throw invalid(
      name,
      `split.count is ${count}, so that the name must end in -00001-of-${digits(count)}.gguf`,
    );
  }
  return `${pattern[1]}-${digits(index + 1)}-of-${digits(count)}.gguf`;
}

function digits(value: number): string {
  return String(value).padStart(5, "0");
}

function checkShards(shards: { source: Source; header: GgufFile }[]): void {
  const total = shards.reduce((sum, shard) => sum + shard.header.tensors.length, 0);
  shards.forEach(({ source, header: { metadata } }, i) => {
    const expected = { "split.no": i, "split.count": shards.length, "split.tensors.count": total };
    for (const [key, value] of Object.entries(expected)) {
      const found = metadata.get(key);
      if (found === value || (found === undefined && key === "split.tensors.count")) continue;
      throw invalid(source.name, `${key} is ${String(found)}, expected ${value}`);
    }
  });
}

type Located = Omit<TensorInfo, "shard">;

function addTensors(tensors: Map<string, TensorInfo>, added: Located[], shard: number, file: string): void {
  for (const tensor of added) {
    if (tensors.has(tensor.name))
      throw invalid(file, `tensor "${tensor.name}" occurs in an earlier shard, too`);
    tensors.set(tensor.name, { ...tensor, shard });
  }
}

function faceOf(
  name: string,
  tensors: Map<string, TensorInfo>,
  sources: Source[],
  arranged: readonly Arranged[] = [],
): ModelFileBase {
  const all = [...sources, ...arranged.map(({ source }) => source)];
  const scratch: Scratch = { bytes: new Uint8Array(0), isLent: false };
  return {
    name,
    tensors,
    sources,
    readTensor: (info, options) => {
      const source = all[info.shard];
      if (source === undefined)
        throw new TidepoolError("invalid_argument", `${name} has no shard ${info.shard}`);
      return options?.isTransient
        ? readTransient(scratch, source, info, options)
        : readBounded(source, info.offset, info.sizeBytes, options);
    },
    close: async () => {
      await Promise.all(sources.map((source) => source.close()));
    },
  };
}

/** One buffer for whoever reads first; a second reader at the same time gets arrays of its own. */
interface Scratch {
  bytes: Uint8Array;
  isLent: boolean;
}

async function* readTransient(
  scratch: Scratch,
  source: Source,
  { offset, sizeBytes }: TensorInfo,
  options: PieceOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (scratch.isLent || !source.readInto) return yield* readBounded(source, offset, sizeBytes, options);
  scratch.isLent = true;
  try {
    const wanted = Math.min(sizeBytes, options.pieceBytes ?? PIECE_BYTES);
    if (scratch.bytes.length < wanted) scratch.bytes = new Uint8Array(wanted);
    yield* readBounded(source, offset, sizeBytes, { ...options, buffer: scratch.bytes });
  } finally {
    scratch.isLent = false;
  }
}

async function openSafetensors(place: ModelPlace, signal?: AbortSignal): Promise<SafetensorsModelFile> {
  const { locate } = place;
  const config = await readJson(locate, "config.json", signal);
  if (config === undefined)
    throw await missing(place, "config.json", "a safetensors model needs it (and a GGUF file ends in .gguf)");
  const sentence = await readSentenceFiles(locate, signal);
  const face = await openWeights(place, config["model_type"], sentence?.modules ?? [], signal);
  return {
    format: "safetensors",
    ...(sentence && { sentence }),
    ...face,
    config,
    tokenizerJson: await readJson(locate, "tokenizer.json", signal),
    tokenizerConfig: await readJson(locate, "tokenizer_config.json", signal),
    generationConfig: await readJson(locate, "generation_config.json", signal),
    chatTemplate: await readText(locate, "chat_template.jinja", signal),
  };
}

async function readSentenceFiles(locate: Locate, signal?: AbortSignal): Promise<SentenceFiles | undefined> {
  const text = await readText(locate, MODULES, signal);
  if (text === undefined) return undefined;
  const modules = sentenceModules(parsePythonJson(text, MODULES));
  const pooling = modules.find(({ type }) => type.endsWith(".Pooling"));
  const dense: Record<string, unknown>[] = [];
  for (const { path } of modules.filter(isDense))
    dense.push((await readJson(locate, `${path}/config.json`, signal)) ?? {});
  return {
    modules,
    pooling: pooling && (await readJson(locate, `${pooling.path}/config.json`, signal)),
    dense,
    settings: await readJson(locate, "config_sentence_transformers.json", signal),
  };
}

const MODULES = "modules.json";

function isDense({ type }: SentenceModule): boolean {
  return type.endsWith(".Dense");
}

/** The matrices of modules behind the model, each in a file of its own whose only tensors are "linear". */
async function addDense(
  place: ModelPlace,
  modules: readonly SentenceModule[],
  tensors: Map<string, TensorInfo>,
  sources: Source[],
  signal?: AbortSignal,
): Promise<void> {
  for (const [index, { path }] of modules.entries()) {
    if (!isDense(modules[index] as SentenceModule)) continue;
    const source = await needed(place, `${path}/model.safetensors`);
    const found = (await readHeader(source, readSafetensors, signal)).tensors;
    const named = found.map(({ name, ...rest }) => ({
      ...rest,
      name: name.replace("linear", `dense_${index}`),
    }));
    addTensors(tensors, named, sources.push(source) - 1, source.name);
  }
}

/** Paths are plain: a list cannot reach outside its folder. */
function sentenceModules(value: unknown): SentenceModule[] {
  const isModule = (item: unknown): item is SentenceModule => {
    const { type, path } = (item ?? {}) as Partial<Record<keyof SentenceModule, unknown>>;
    return typeof type === "string" && typeof path === "string" && /^[\w-]*$/.test(path);
  };
  if (Array.isArray(value) && value.every(isModule)) return value;
  throw invalid(MODULES, "is not a list of modules with a type and a plain path");
}

async function openWeights(
  place: ModelPlace,
  modelType: unknown,
  modules: readonly SentenceModule[],
  signal?: AbortSignal,
): Promise<ModelFileBase> {
  const named = place.first?.name.endsWith(".safetensors") === true ? place.first : undefined;
  const shardOfName = named === undefined ? undefined : /-\d{5}-of-\d{5}\.safetensors$/.exec(named.name);
  const single =
    named !== undefined && shardOfName === null ? named : await place.locate("model.safetensors");
  const files = single === undefined ? await indexedFiles(place, signal) : undefined;
  const sources = single === undefined ? [] : [single];
  for (const file of new Set(files?.values())) sources.push(await needed(place, file));
  const tensors = new Map<string, TensorInfo>();
  for (const [shard, source] of sources.entries()) {
    addTensors(tensors, (await readHeader(source, readSafetensors, signal)).tensors, shard, source.name);
  }
  for (const [tensor, file] of files ?? []) checkIndexed(tensors.get(tensor), tensor, file, sources);
  await addDense(place, modules, tensors, sources, signal);
  const arranged = arrangedTensors(tensors, sources, modelType);
  for (const name of arranged.flatMap((each) => each.of)) tensors.delete(name);
  for (const [index, { tensor }] of arranged.entries())
    tensors.set(tensor.name, { ...tensor, shard: sources.length + index });
  return faceOf(sources[0]?.name ?? INDEX_NAME, tensors, sources, arranged);
}

const INDEX_NAME = "model.safetensors.index.json";

/** Tensor name to file name, from the index. File names are plain: an index cannot reach outside its folder. */
async function indexedFiles(place: ModelPlace, signal?: AbortSignal): Promise<Map<string, string>> {
  const index = await readJson(place.locate, INDEX_NAME, signal);
  if (index === undefined)
    throw await missing(place, "model.safetensors", `there is no ${INDEX_NAME} either`);
  const map = index["weight_map"];
  if (typeof map !== "object" || map === null) throw invalid(INDEX_NAME, "weight_map is not an object");
  const files = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map as Record<string, unknown>)) {
    if (typeof file !== "string" || !/^[\w-][\w.-]*\.safetensors$/.test(file)) {
      throw invalid(
        INDEX_NAME,
        `weight_map "${tensor}" is not a plain .safetensors file name: ${String(file)}`,
      );
    }
    files.set(tensor, file);
  }
  const shards = new Set(files.values()).size;
  if (shards < 1 || shards > MAX_SHARDS) throw invalid(INDEX_NAME, `weight_map names ${shards} files`);
  return files;
}

function checkIndexed(info: TensorInfo | undefined, tensor: string, file: string, sources: Source[]): void {
  if (info === undefined || baseName(sources[info.shard]?.name ?? "") !== file) {
    throw invalid(file, `does not hold tensor "${tensor}", which ${INDEX_NAME} says it does`);
  }
}

async function readJson(
  locate: Locate,
  name: string,
  signal?: AbortSignal,
): Promise<Record<string, unknown> | undefined> {
  const text = await readText(locate, name, signal);
  if (text === undefined) return undefined;
  const value = parsePythonJson(text, name);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw invalid(name, "is not a JSON object");
  return value as Record<string, unknown>;
}

async function readText(locate: Locate, name: string, signal?: AbortSignal): Promise<string | undefined> {
  const source = await locate(name);
  if (source === undefined) return undefined;
  try {
    if (source.sizeBytes > MAX_JSON_BYTES) {
      throw invalid(name, `has ${source.sizeBytes} bytes, over the limit of ${MAX_JSON_BYTES}`);
    }
    const decoder = new TextDecoder();
    let text = "";
    for await (const piece of readBounded(source, 0, source.sizeBytes, { signal })) {
      text += decoder.decode(piece, { stream: true });
    }
    return text + decoder.decode();
  } finally {
    await source.close();
  }
}

function invalid(file: string, what: string): TidepoolError {
  return new TidepoolError("invalid_file", `${file}: ${what}`, { file });
}
