/**
 * Multi-head latent attention (deepseek2 with dense layers alone): a small random model against float64, in which keys and
 * values of each head are made from the latent vector as they are defined, not absorbed. With and without a rank of queries, with
 * and without YaRN; in one prefill, in chunks, and one by one; and what is kept of a token.
 */
import { Random } from "../../src/base.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { kvBytesPerToken } from "../../src/model/memory.ts";
import { modelCost } from "../../src/model/cost.ts";
import type { Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { writeGguf } from "../support/gguf-writer.ts";
import { nmse, runTokens, type Feed } from "./golden.ts";

interface Spec {
  queryRank: number;
  yarn: boolean;
}

const M = {
  d: 36,
  layers: 2,
  vocab: 50,
  heads: 3,
  rank: 20,
  plain: 12,
  rope: 8,
  value: 16,
  ff: 40,
  eps: 1e-5,
};
const THETA = 10_000;
const YARN = { factor: 4, original: 8, multiplier: 0.0707 };
const TOKENS = Array.from({ length: 40 }, (_, index) => (7 * index) % M.vocab);
const FEEDS: readonly Feed[] = ["once", "chunks of 7", "one by one"];

type Tensors = ReadonlyMap<string, { shape: number[]; data: Float32Array }>;

function tensorsOf({ queryRank }: Spec, random: Random): Tensors {
  const tensors = new Map<string, { shape: number[]; data: Float32Array }>();
  const add = (name: string, shape: number[], isNorm = false) => {
    const size = isNorm ? 0.3 : 1.2 / Math.sqrt(shape[0] as number);
    const length = shape.reduce((product, each) => product * each, 1);
    const data = Float32Array.from({ length }, () => (isNorm ? 1 : 0) + size * random.normal());
    tensors.set(`${name}.weight`, { shape, data });
  };
  add("token_embd", [M.d, M.vocab]);
  add("output_norm", [M.d], true);
  add("output", [M.d, M.vocab]);
  for (let layer = 0; layer < M.layers; layer++) {
    const own = (name: string, shape: number[], isNorm = false) => add(`blk.${layer}.${name}`, shape, isNorm);
    const queries = M.heads * (M.plain + M.rope);
    own("attn_norm", [M.d], true);
    if (queryRank > 0) {
      own("attn_q_a", [M.d, queryRank]);
      own("attn_q_a_norm", [queryRank], true);
      own("attn_q_b", [queryRank, queries]);
    } else own("attn_q", [M.d, queries]);
    own("attn_kv_a_mqa", [M.d, M.rank + M.rope]);
    own("attn_kv_a_norm", [M.rank], true);
    own("attn_k_b", [M.plain, M.rank, M.heads]);
    own("attn_v_b", [M.rank, M.value, M.heads]);
    own("attn_output", [M.heads * M.value, M.d]);
    own("ffn_norm", [M.d], true);
    own("ffn_gate", [M.d, M.ff]);
    own("ffn_up", [M.d, M.ff]);
    own("ffn_down", [M.ff, M.d]);
  }
  return tensors;
}

function modelOf({ queryRank, yarn }: Spec, tensors: Tensors): Uint8Array {
  return writeGguf({
    metadata: {
      "general.architecture": "deepseek2",
      "deepseek2.block_count": M.layers,
      "deepseek2.embedding_length": M.d,
      "deepseek2.context_length": 256,
      "deepseek2.feed_forward_length": M.ff,
      "deepseek2.attention.head_count": M.heads,
      "deepseek2.attention.head_count_kv": 1,
      "deepseek2.attention.layer_norm_rms_epsilon": M.eps,
      ...(queryRank > 0 && { "deepseek2.attention.q_lora_rank": queryRank }),
      "deepseek2.attention.kv_lora_rank": M.rank,
      "deepseek2.attention.key_length": M.rank + M.rope,
      "deepseek2.attention.value_length": M.rank,
      "deepseek2.attention.key_length_mla": M.plain + M.rope,
      "deepseek2.attention.value_length_mla": M.value,
      "deepseek2.rope.dimension_count": M.rope,
      "deepseek2.rope.freq_base": THETA,
      ...(yarn && {
        "deepseek2.rope.scaling.type": "yarn",
        "deepseek2.rope.scaling.factor": YARN.factor,
        "deepseek2.rope.scaling.original_context_length": YARN.original,
        "deepseek2.rope.scaling.yarn_log_multiplier": YARN.multiplier,
      }),
    },
    tensors: [...tensors].map(([name, { shape, data }]) => ({
      ...{ name, type: "F32", shape },
      data: new Uint8Array(data.buffer),
    })),
  });
}

type Row = readonly number[];

/** Angles of the pairs at a position. */
function anglesAt(position: number, yarn: boolean): Row {
  const pairTurning = (turns: number) =>
    (M.rope * Math.log(YARN.original / (2 * Math.PI * turns))) / (2 * Math.log(THETA));
  const low = Math.max(0, Math.floor(pairTurning(32)));
  const high = Math.min(M.rope - 1, Math.ceil(pairTurning(1)));
  return Array.from({ length: M.rope / 2 }, (_, pair) => {
    const plain = position * THETA ** ((-2 * pair) / M.rope);
    if (!yarn) return plain;
    const keep = 1 - Math.min(1, Math.max(0, (pair - low) / Math.max(0.001, high - low)));
    return (plain / YARN.factor) * (1 - keep) + plain * keep;
  });
}

/** Neighbouring pairs of the last `M.rope` entries, turned. */
function turned(row: Row, angles: Row): number[] {
  const out = [...row];
  const first = row.length - M.rope;
  angles.forEach((angle, pair) => {
    const [a, b] = [row[first + 2 * pair]!, row[first + 2 * pair + 1]!];
    out[first + 2 * pair] = a * Math.cos(angle) - b * Math.sin(angle);
    out[first + 2 * pair + 1] = a * Math.sin(angle) + b * Math.cos(angle);
  });
  return out;
}

function logitsOf({ queryRank, yarn }: Spec, tensors: Tensors): Float32Array {
  const data = (name: string) => tensors.get(`${name}.weight`)!.data;
  const times = (name: string, x: Row, first = 0, rows = data(name).length / x.length): number[] =>
    Array.from({ length: rows }, (_, row) =>
      x.reduce((sum, value, column) => sum + value * data(name)[(first + row) * x.length + column]!, 0),
    );
  const normed = (row: Row, name: string): number[] => {
    const rms = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / row.length + M.eps);
    return row.map((value, index) => (value / rms) * data(name)[index]!);
  };
  const stretch = yarn ? 1 + YARN.multiplier * Math.log(YARN.factor) : 1;
  const scale = stretch ** 2 / Math.sqrt(M.plain + M.rope);
  const caches = Array.from({ length: M.layers }, () => ({
    keys: [] as number[][][],
    values: [] as number[][][],
  }));
  const inHead = M.plain + M.rope;
  const rows = TOKENS.map((token, position) => {
    const angles = anglesAt(position, yarn);
    let x = [...data("token_embd").subarray(token * M.d, (token + 1) * M.d)];
    caches.forEach(({ keys, values }, layer) => {
      const of = (name: string) => `blk.${layer}.${name}`;
      const input = normed(x, of("attn_norm"));
      const q =
        queryRank > 0
          ? times(of("attn_q_b"), normed(times(of("attn_q_a"), input), of("attn_q_a_norm")))
          : times(of("attn_q"), input);
      const kept = turned(times(of("attn_kv_a_mqa"), input), angles);
      const latent = normed(kept.slice(0, M.rank), of("attn_kv_a_norm"));
      const heads = Array.from({ length: M.heads }, (_, head) => head);
      keys.push(
        heads.map((head) => [
          ...Array.from({ length: M.plain }, (_, n) =>
            latent.reduce(
              (sum, value, r) => sum + value * data(of("attn_k_b"))[(head * M.rank + r) * M.plain + n]!,
              0,
            ),
          ),
          ...kept.slice(M.rank),
        ]),
      );
      values.push(heads.map((head) => times(of("attn_v_b"), latent, head * M.value, M.value)));
      const attended = heads.flatMap((head) => {
        const query = turned(q.slice(head * inHead, (head + 1) * inHead), angles);
        const scores = keys.map(
          (each) => scale * each[head]!.reduce((sum, key, c) => sum + key * query[c]!, 0),
        );
        const most = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        return Array.from({ length: M.value }, (_, c) =>
          weights.reduce((sum, weight, j) => sum + (weight / total) * values[j]![head]![c]!, 0),
        );
      });
      const out = times(of("attn_output"), attended);
      x = x.map((value, index) => value + out[index]!);
      const normal = normed(x, of("ffn_norm"));
      const up = times(of("ffn_up"), normal);
      const act = times(of("ffn_gate"), normal).map(
        (gate, index) => (gate / (1 + Math.exp(-gate))) * up[index]!,
      );
      const fed = times(of("ffn_down"), act);
      x = x.map((value, index) => value + fed[index]!);
    });
    return times("output", normed(x, "output_norm"));
  });
  return Float32Array.from(rows.flat());
}

const SPECS: Readonly<Record<string, Spec>> = {
  "a rank of queries": { queryRank: 24, yarn: false },
  "one matrix of queries, YaRN": { queryRank: 0, yarn: true },
};

export const cases: Case[] = [
  ...Object.entries(SPECS).flatMap(([name, spec]) =>
    (spec.yarn ? (["f32", "f16"] as const) : (["f32"] as const)).map((dtype): Case => ({
      name: `model/latent/${name} ${dtype}`,
      needs: { f16: dtype === "f16", shared: false },
      async run(env) {
        const tensors = tensorsOf(spec, new Random(7));
        const [model, expected] = [modelOf(spec, tensors), logitsOf(spec, tensors)];
        for (const feed of FEEDS) {
          const setting = { dtype, kvDtype: dtype, blockTokens: 16, feed } as const;
          const error = nmse(await runTokens(env.gpu, model, TOKENS, setting), expected);
          const gate = dtype === "f16" ? 1e-4 : 1e-9;
          if (!(error < gate)) throw new Error(`${feed}: NMSE ${error.toExponential(2)}, gate ${gate}`);
        }
      },
    })),
  ),
  {
    name: "model/latent/what is kept of a token",
    needs: { shared: false },
    async run() {
      const spec: Spec = { queryRank: 0, yarn: false };
      const model = modelOf(spec, tensorsOf(spec, new Random(7)));
      const shape = shapeOf(await openModel([openBytes(model, "model.gguf")]));
      const bytes = M.layers * (M.rank + M.rope) * 4;
      equal(
        kvBytesPerToken(shape, { blockTokens: 16, kvDtype: "f32" }),
        bytes,
        "bytes of a token in the pool",
      );
      equal(modelCost(shape, "f32").bytesPerToken, bytes, "bytes of a token in the cost");
    },
  },
];
