/** Whole models: GGUF single and in shards, safetensors folders, from paths, URLs, Files and sources. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openModel } from "../../src/load/model-file.ts";
import type { ModelFile, ModelLocation } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type { Source } from "../../src/load/source.ts";
import { f32Bytes, typed, writeGguf, writeSafetensors } from "../support/gguf-writer.ts";
import type { WriteValue } from "../support/gguf-writer.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

type Files = Record<string, Uint8Array<ArrayBuffer>>;

const json = (value: unknown): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
const numbers = (start: number): number[] => Array.from({ length: 6 }, (_, i) => start + i);

function shard(
  index: number,
  changes: Record<string, WriteValue> = {},
  name = `t${index}`,
): Uint8Array<ArrayBuffer> {
  const split = { "split.no": typed("u16", index), "split.count": typed("u16", 3), "split.tensors.count": 3 };
  return writeGguf({
    metadata: { ...(index === 0 ? { "general.architecture": "llama" } : {}), ...split, ...changes },
    tensors: [{ name, type: "F32", shape: [3, 2], data: f32Bytes(numbers(index * 10)) }],
  });
}

const shardName = (index: number): string => `m-0000${index + 1}-of-00003.gguf`;
const SHARDED: Files = Object.fromEntries([0, 1, 2].map((i) => [shardName(i), shard(i)]));

const tensorFile = (name: string, start: number): Uint8Array<ArrayBuffer> =>
  writeSafetensors([{ name, dtype: "F32", shape: [2, 3], data: f32Bytes(numbers(start)) }]);

const SIDE_FILES: Files = {
  "config.json": json({ architectures: ["LlamaForCausalLM"] }),
  "tokenizer.json": json({ model: {} }),
  "tokenizer_config.json": json({ bos_token: "<s>" }),
  "chat_template.jinja": new TextEncoder().encode("{{ messages }}"),
};
const SINGLE: Files = { ...SIDE_FILES, "model.safetensors": tensorFile("t0", 0) };
const INDEXED: Files = {
  ...SIDE_FILES,
  "model-00001-of-00002.safetensors": tensorFile("t0", 0),
  "model-00002-of-00002.safetensors": tensorFile("t1", 10),
  "model.safetensors.index.json": json({
    weight_map: { t0: "model-00001-of-00002.safetensors", t1: "model-00002-of-00002.safetensors" },
  }),
};

const FOLDERS: Record<string, Files> = { sharded: SHARDED, single: SINGLE, indexed: INDEXED };

let folder = "";
let server: Server;
let base = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tidepool-model-"));
  for (const [name, files] of Object.entries(FOLDERS)) {
    await mkdir(join(folder, name));
    for (const [file, bytes] of Object.entries(files)) await writeFile(join(folder, name, file), bytes);
  }
  server = createServer((request, response) => {
    const [, name = "", file = ""] = new URL(request.url ?? "", "http://localhost").pathname.split("/");
    const bytes = FOLDERS[name]?.[file];
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (bytes === undefined || range === null) response.writeHead(404).end();
    else {
      const [first, last] = [Number(range[1]), Number(range[2])];
      const headers = { "content-range": `bytes ${first}-${last}/${bytes.length}` };
      response.writeHead(206, headers).end(bytes.subarray(first, last + 1));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true });
});

async function readFloats(model: ModelFile, name: string, pieceBytes = 8): Promise<number[]> {
  const info = model.tensors.get(name);
  expect(info, name).toBeDefined();
  if (info === undefined) return [];
  const pieces: Uint8Array[] = [];
  for await (const piece of model.readTensor(info, { pieceBytes })) pieces.push(piece);
  const bytes = Uint8Array.from(Buffer.concat(pieces));
  return [...new Float32Array(bytes.buffer)];
}

const sourcesOf = (files: Files): Source[] =>
  Object.entries(files).map(([name, bytes]) => openBytes(bytes, name));
const filesOf = (files: Files): File[] =>
  Object.entries(files).map(([name, bytes]) => new File([bytes], name));

const SHARD_PLACES: [string, () => ModelLocation][] = [
  ["path", () => join(folder, "sharded", shardName(0))],
  ["path of a later shard", () => join(folder, "sharded", shardName(2))],
  ["URL", () => `${base}/sharded/${shardName(0)}?download=true`],
  ["Files, in disorder", () => filesOf(SHARDED).reverse()],
  ["sources", () => sourcesOf(SHARDED)],
];

describe("GGUF in shards", () => {
  test.each(SHARD_PLACES)("from a %s", async (_name, place) => {
    const model = await openModel(place());
    expect(model).toMatchObject({ format: "gguf", name: shardName(0) });
    expect(model.sources.map((source) => source.name)).toEqual([0, 1, 2].map(shardName));
    for (const i of [0, 1, 2]) {
      expect(model.tensors.get(`t${i}`)).toMatchObject({
        shard: i,
        shape: [3, 2],
        type: "F32",
        sizeBytes: 24,
      });
      expect(await readFloats(model, `t${i}`)).toEqual(numbers(i * 10));
    }
    await model.close();
  });

  const BROKEN: [string, Files, RegExp][] = [
    [
      "a missing shard",
      { [shardName(0)]: shard(0), [shardName(2)]: shard(2) },
      /m-00002-of-00003.gguf was not found/,
    ],
    ["a shard in the wrong place", { ...SHARDED, [shardName(1)]: shard(2) }, /split.no is 2, expected 1/],
    [
      "another count",
      { ...SHARDED, [shardName(1)]: shard(1, { "split.count": 2 }) },
      /split.count is 2, expected 3/,
    ],
    [
      "a wrong total",
      { ...SHARDED, [shardName(0)]: shard(0, { "split.tensors.count": 9 }) },
      /tensors.count is 9/,
    ],
    [
      "a tensor in two shards",
      { ...SHARDED, [shardName(1)]: shard(1, {}, "t0") },
      /"t0" occurs in an earlier shard/,
    ],
    [
      "an absurd count",
      { "m.gguf": shard(0, { "split.count": 1_000_000 }) },
      /split.count is 1000000, expected/,
    ],
    ["a count of text", { "m.gguf": shard(0, { "split.count": "x" }) }, /split.count is x/],
    ["a shard under another name", { "m.gguf": shard(0) }, /split.count is 3, so that the name must end in/],
  ];

  test.each(BROKEN)("%s is refused", async (_name, files, message) => {
    await expect(openModel(sourcesOf(files))).rejects.toThrow(message);
  });
});

const folderPlaces = (name: string, files: Files): [string, () => ModelLocation][] => [
  ["folder", () => join(folder, name)],
  ["folder with a slash", () => join(folder, name) + "/"],
  ["path of a file in it", () => join(folder, name, "config.json")],
  ["URL of the folder", () => `${base}/${name}`],
  ["URL of a file in it", () => new URL(`${base}/${name}/config.json?x=1`)],
  ["Files", () => filesOf(files)],
];

describe("safetensors", () => {
  test.each(folderPlaces("single", SINGLE))("one file, from a %s", async (_name, place) => {
    const model = await openModel(place());
    expect(model).toMatchObject({
      format: "safetensors",
      config: { architectures: ["LlamaForCausalLM"] },
      tokenizerJson: { model: {} },
      tokenizerConfig: { bos_token: "<s>" },
      generationConfig: undefined,
      chatTemplate: "{{ messages }}",
    });
    expect(model.tensors.get("t0")).toMatchObject({ shape: [3, 2], type: "F32", shard: 0 });
    expect(await readFloats(model, "t0")).toEqual(numbers(0));
    await model.close();
  });

  test.each(folderPlaces("indexed", INDEXED))("indexed shards, from a %s", async (_name, place) => {
    const model = await openModel(place());
    expect(await readFloats(model, "t0")).toEqual(numbers(0));
    expect(await readFloats(model, "t1")).toEqual(numbers(10));
    await model.close();
  });

  test("JSON as Python writes it, with numbers that JSON does not have", async () => {
    const text =
      '{"time_step_limit": [0.0, Infinity], "low": -Infinity, "odd": NaN, "Infinity": "NaN \\" Infinity"}';
    const files = { ...SINGLE, "config.json": new TextEncoder().encode(text) };
    const model = await openModel(sourcesOf(files));
    expect(model).toMatchObject({
      config: { time_step_limit: [0, Infinity], low: -Infinity, odd: "NaN", Infinity: 'NaN " Infinity' },
    });
    await model.close();
  });

  test("a weight file of another name that is given alone with its folder's files", async () => {
    const files = { "config.json": SIDE_FILES["config.json"]!, "tiny.safetensors": tensorFile("t0", 0) };
    expect(await readFloats(await openModel(sourcesOf(files)), "t0")).toEqual(numbers(0));
  });

  const without = (files: Files, name: string): Files =>
    Object.fromEntries(Object.entries(files).filter(([file]) => file !== name));
  const index = (weight_map: unknown): Files => ({
    ...INDEXED,
    "model.safetensors.index.json": json({ weight_map }),
  });
  const first = "model-00001-of-00002.safetensors";

  const BROKEN: [string, Files, RegExp][] = [
    ["no config", without(SINGLE, "config.json"), /config.json was not found/],
    ["no weights", SIDE_FILES, /model.safetensors was not found/],
    ["a missing shard", without(INDEXED, first), /model-00001-of-00002.safetensors was not found/],
    ["a config that is no JSON", { ...SINGLE, "config.json": new Uint8Array(3) }, /config.json: is not JSON/],
    ["a config that is a list", { ...SINGLE, "config.json": json([]) }, /config.json: is not a JSON object/],
    ["an index without a map", index(undefined), /index.json: weight_map is not an object/],
    ["an index out of the folder", index({ t0: "../x.safetensors" }), /weight_map "t0" is not a plain/],
    ["an index to another kind", index({ t0: "passwords.txt" }), /weight_map "t0" is not a plain/],
    ["an empty index", index({}), /weight_map names 0 files/],
    ["an index that errs", index({ t1: first }), /does not hold tensor "t1"/],
  ];

  test.each(BROKEN)("%s is refused", async (_name, files, message) => {
    await expect(openModel(sourcesOf(files))).rejects.toThrow(message);
  });
});

describe("what was taken for a model", () => {
  const text = (start: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(start.padEnd(200, " "));
  const pointer = text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9");

  test.each<[string, string, Uint8Array<ArrayBuffer>, RegExp]>([
    ["a pointer", "m.gguf", pointer, /m.gguf is a Git LFS pointer .*git lfs pull/],
    ["a pointer", "model.safetensors", pointer, /model.safetensors is a Git LFS pointer/],
    ["a web page", "m.gguf", text("<!DOCTYPE html><title>404"), /m.gguf is a web page/],
    ["a zip archive", "model.safetensors", text("PK\x03\x04"), /is a zip archive: PyTorch writes/],
    ["safetensors", "m.gguf", tensorFile("t0", 0), /m.gguf is a safetensors file: its name should end in/],
    ["noise", "m.gguf", text("noise"), /m.gguf: magic is/],
    ["a GGUF file that is cut", "m.gguf", writeGguf({ metadata: { a: 1 } }).slice(0, 30), /m.gguf: /],
  ])("%s in place of %s is known", async (_name, name, bytes, message) => {
    const files = name.endsWith(".gguf") ? { [name]: bytes } : { ...SIDE_FILES, [name]: bytes };
    await expect(openModel(sourcesOf(files))).rejects.toThrow(message);
  });

  test("what a folder has in place of what is missing is listed", async () => {
    const place = join(folder, "gguf-only");
    await mkdir(place);
    await writeFile(join(place, "m.Q4_0.gguf"), SHARDED[shardName(0)]!);
    await expect(openModel(place)).rejects.toThrow(/config.json was not found: .*; there are m.Q4_0.gguf$/);
    for (let i = 0; i < 12; i++) await writeFile(join(place, `other-${i}.bin`), "");
    await expect(openModel(place)).rejects.toThrow(/ other-\d+.bin and 5 more$/);
  });
});

describe("one face", () => {
  test("what is neither, what is not there, what is nothing", async () => {
    await expect(openModel([openBytes(new Uint8Array(99), "x.bin")])).rejects.toThrow(
      /neither a GGUF file nor/,
    );
    await expect(openModel(join(folder, "absent"))).rejects.toMatchObject({ code: "not_found" });
    await expect(openModel(`${base}/absent/m.gguf`)).rejects.toMatchObject({ code: "not_found" });
    await expect(openModel([])).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(openModel(sourcesOf({ "m.gguf": new Uint8Array(99) }))).rejects.toThrow(/magic/);
  });

  test("GGUF without the suffix is known by its magic", async () => {
    const model = await openModel([openBytes(writeGguf({ metadata: { a: 1 } }), "blob")]);
    expect(model).toMatchObject({ format: "gguf", name: "blob" });
  });

  test("closes what it opened when opening fails, and everything on close", async () => {
    const open = new Set<string>();
    const watched = sourcesOf({ ...SHARDED, [shardName(2)]: new Uint8Array(9) }).map((source) => {
      open.add(source.name);
      return { ...source, close: () => Promise.resolve(void open.delete(source.name)) };
    });
    await expect(openModel(watched)).rejects.toMatchObject({ code: "invalid_file" });
    expect([...open]).toEqual([]);
  });

  test("aborts", async () => {
    await expect(openModel(sourcesOf(SHARDED), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "aborted",
    });
  });

  if (!sharedPresent) skipLoudly("vocabulary-only files", 1);
  test.skipIf(!sharedPresent)("a vocabulary-only file opens, and has no tensors", async () => {
    const model = await openModel(sharedPath("goldens/tokenizers/gpt-2.gguf"));
    expect(model.tensors.size).toBe(0);
    await model.close();
  });
});
