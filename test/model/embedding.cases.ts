/**
 * Every golden variant that makes vectors, against exact ones: all texts in one step and each alone, in f32 and f16. A text's
 * vector is the same to the bit whatever it is computed with.
 */
import type { Gpu } from "../../src/gpu/device.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import type { Elem } from "../../src/gpu/kernel.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { Runner } from "../../src/model/runner.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { expectSame } from "../support/rig.ts";
import { nmse, withoutSubgroups } from "./golden.ts";
import { EMBEDDING_VARIANTS } from "./variants.ts";

type Variant = (typeof EMBEDDING_VARIANTS)[number];

/** Those with GELU have an exact reference beside llama.cpp's, which is computed with a table of 16-bit GELU. */
const VARIANTS: Record<Variant, { gate: number; reference: "embedding.f32" | "float64.f32" }> = {
  bertmean: { gate: 1e-8, reference: "float64.f32" },
  bertcls: { gate: 1e-8, reference: "float64.f32" },
  nomicbert: { gate: 1e-9, reference: "embedding.f32" },
  nomicbertmoe: { gate: 1e-8, reference: "float64.f32" },
  modernbert: { gate: 1e-8, reference: "float64.f32" },
  gemmaembedding: { gate: 1e-8, reference: "float64.f32" },
  qwen3embedding: { gate: 1e-9, reference: "embedding.f32" },
};

const F16_GATE = 1e-4;

/** Rows of a chunk in models that keep a text's tokens. */
const CHUNK = 32;

interface EmbeddingGolden {
  inputs: number[][];
  dimension: number;
  pooling: string;
}

/** The vectors of several texts, of an encoder or another model. */
export async function embedAll(runner: Runner, inputs: readonly number[][]): Promise<Float32Array[]> {
  if (!runner.shape.embedding?.isEncoder) {
    const vectors: Float32Array[] = [];
    for (const tokens of inputs) vectors.push(await embedOne(runner, tokens));
    return vectors;
  }
  return (await runner.embed(inputs)).map((vector) => {
    if ("position" in vector) throw new Error(`text ${vector.index} is not finite at ${vector.position}`);
    return vector;
  });
}

/** Chunk by chunk, in blocks of its own. */
async function embedOne(runner: Runner, tokens: readonly number[]): Promise<Float32Array> {
  const blocks = new BlockPool(runner.pool.options.slots);
  const slots = blocks.allocate(Math.ceil(tokens.length / runner.options.blockTokens)) as number[];
  let vector = new Float32Array(0);
  for (let position = 0; position < tokens.length; position += CHUNK) {
    const part = tokens.slice(position, position + CHUNK);
    vector = await runner.embedChunk({ position, slots, tokens: part });
  }
  return vector;
}

async function open(gpu: Gpu, env: CaseEnv, variant: string, dtype: Elem): Promise<Runner> {
  const file = await openModel([
    openBytes(await env.shared(`goldens/models/${variant}/model.gguf`), "m.gguf"),
  ]);
  const sizes = { blockTokens: 16, chunkTokens: 256, seats: 2, poolTokens: 512 };
  const runner = await Runner.load(gpu, file, { dtype, kvDtype: dtype, ...sizes });
  await file.close();
  return runner;
}

function embeddingCase(variant: Variant, dtype: Elem, subgroups: boolean): Case {
  return {
    name: `model/embedding/${variant} ${dtype}${subgroups ? " subgroups" : ""}`,
    needs: { f16: dtype === "f16", subgroups },
    varied: { group: "model/embedding", settings: [variant, dtype, subgroups] },
    async run(env) {
      const { gate, reference } = VARIANTS[variant];
      const read = async (name: string) => env.shared(`goldens/models/${variant}/${name}`);
      const golden = JSON.parse(new TextDecoder().decode(await read("golden.json"))) as EmbeddingGolden;
      const expected = new Float32Array((await read(reference)).slice().buffer);
      const runner = await open(subgroups ? env.gpu : withoutSubgroups(env.gpu), env, variant, dtype);
      try {
        const vectors = await embedAll(runner, golden.inputs);
        const actual = Float32Array.from(vectors.flatMap((vector) => [...vector]));
        const error = nmse(actual, expected);
        const limit = dtype === "f16" ? F16_GATE : gate;
        if (!(error < limit)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${limit}`);
        for (const [index, tokens] of golden.inputs.entries()) {
          const [alone] = await embedAll(runner, [tokens]);
          expectSame(`text ${index} alone`, alone as Float32Array, vectors[index] as Float32Array);
        }
      } finally {
        runner.destroy();
      }
    },
  };
}

export const cases: Case[] = EMBEDDING_VARIANTS.flatMap((variant) =>
  (["f32", "f16"] as const).flatMap((dtype) =>
    [false, true].map((subgroups) => embeddingCase(variant, dtype, subgroups)),
  ),
);
