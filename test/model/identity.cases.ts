/**
 * Two model files of which not one byte of a weight differs, only what the bytes mean: neither finds a block of the
 * other's in a store that both use.
 */
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { BLOCK_FORMATS, type TensorType } from "../../src/load/tensor-type.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession } from "../support/session.ts";
import { loadGolden } from "./golden.ts";

const PAIRS: readonly (readonly [TensorType, TensorType])[] = [
  ["Q4_0", "IQ4_NL"],
  ["F16", "BF16"],
];

const BLOCK_TOKENS = 16;

/** The same file, its tensors of one type declared to be of another. */
async function retyped(model: Uint8Array, from: TensorType, to: TensorType): Promise<Uint8Array> {
  const bytes = model.slice();
  const view = new DataView(bytes.buffer);
  const file = await openModel([openBytes(model, "model.gguf")]);
  const text = new TextDecoder("latin1").decode(model);
  for (const { name, type, shape } of file.tensors.values()) {
    if (type !== from) continue;
    const at = text.indexOf(`${name}${String.fromCharCode(shape.length, 0, 0, 0)}`) + name.length + 4;
    equal(view.getUint32(at + 8 * shape.length, true), BLOCK_FORMATS[from].id, `type of ${name}`);
    view.setUint32(at + 8 * shape.length, BLOCK_FORMATS[to].id, true);
  }
  await file.close();
  return bytes;
}

/** The prompt's tokens that a fresh process finds on the disk. */
async function tokensFound(
  env: CaseEnv,
  model: Uint8Array,
  disk: KeptBackend,
  tokens: number[],
): Promise<number> {
  const options = { dtype: "f32", blockTokens: BLOCK_TOKENS, cache: { restore: "load" } } as const;
  const session = await TestSession.load(env.gpu, model, options, await disk.openStore());
  try {
    const { usage } = await session.generate({ kind: "tokens", tokens }, { maxTokens: 1 }).done;
    return usage.cachedTokens.disk;
  } finally {
    await session.close(); // writes what is on its way
  }
}

export const cases: Case[] = PAIRS.map(([from, to]) => ({
  name: `model/identity/${from} and ${to} of the same bytes`,
  async run(env) {
    const { golden, model } = await loadGolden(env, `goldens/quants/${from}-all`);
    const disk = new KeptBackend();
    const stored = BLOCK_TOKENS * Math.floor((golden.tokens.length - 1) / BLOCK_TOKENS);
    equal(await tokensFound(env, model, disk, golden.tokens), 0, "found in an empty store");
    equal(await tokensFound(env, model, disk, golden.tokens), stored, "found of its own");
    const other = await retyped(model, from, to);
    equal(await tokensFound(env, other, disk, golden.tokens), 0, `found by ${to} of ${from}`);
  },
}));
