/** Sizes that no kernel takes are refused by layer and name before anything is made of them. */
import { expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";

const LLAMA: Record<string, unknown> = {
  "general.architecture": "llama",
  "llama.block_count": 2,
  "llama.embedding_length": 64,
  "llama.attention.head_count": 4,
  "llama.attention.head_count_kv": 2,
  "llama.attention.key_length": 16,
  "llama.feed_forward_length": 128,
  "llama.context_length": 256,
  "llama.vocab_size": 100,
  "llama.attention.layer_norm_rms_epsilon": 1e-5,
};

const file = (changes: Record<string, unknown> = {}) =>
  ({
    name: "m.gguf",
    format: "gguf",
    metadata: new Map(Object.entries({ ...LLAMA, ...changes })),
    tensors: new Map(),
  }) as unknown as ModelFile;

test("a whole model has no complaint", () => {
  expect(shapeOf(file()).layers.length).toBe(2);
});

test.each<[string, Record<string, unknown>, RegExp]>([
  ["an odd rotation", { "llama.rope.dimension_count": 7 }, /7 rotated entries a head/],
  ["a head size of 18", { "llama.attention.key_length": 18 }, /layer 0: the head size 18/],
  ["a head size of 510", { "llama.attention.key_length": 510 }, /layer 0: the head size 510/],
  ["a hidden size of 66", { "llama.embedding_length": 66 }, /the hidden size 66/],
  [
    "a feed-forward of 130",
    { "llama.feed_forward_length": [128, 130] },
    /layer 1: the feed-forward width 130/,
  ],
  [
    "KV heads that do not divide",
    { "llama.attention.head_count_kv": 3 },
    /4 .*heads cannot share 3 KV heads/,
  ],
  ["no layers", { "llama.block_count": 0 }, /block_count is 0, expected an integer from 1/],
  ["a missing key", { "llama.embedding_length": undefined }, /embedding_length is missing/],
  ["an unknown architecture", { "general.architecture": "x" }, /the architecture "x" is not known/],
])("%s", (_name, changes, message) => {
  let error: unknown;
  try {
    shapeOf(file(changes));
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(TidepoolError);
  expect((error as TidepoolError).message).toMatch(message);
  expect((error as TidepoolError).message).toMatch(/^m\.gguf: /);
  expect(["invalid_file", "unsupported"]).toContain((error as TidepoolError).code);
});
