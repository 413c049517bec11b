/**
 * `embed` through a session: many calls at once, aborts, a step that fails, numbers that are not finite, a device that is
 * lost; what a model cannot do is refused with a sentence; and a text through blocks of the cache is the text computed anew.
 */
import { TidepoolError } from "../../src/errors.ts";
import { findProvider, openGpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type { Call, EmbedInput, EmbedParams } from "../../src/wire/protocol.ts";
import type { Reopened } from "../../src/worker/recovery.ts";
import { withNumbers } from "../support/broken-model.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { FaultyGpu } from "../support/faulty-gpu.ts";
import { expectSame } from "../support/rig.ts";
import { TestSession } from "../support/session.ts";
import { tinyEncoder, WORDPIECE_TOKENS } from "../support/tiny-encoder.ts";

const TEXTS = ["the boat", "sea", "A boat, the sea and 12 boats2!", "", "漢 Ä"];

/** A token that no text becomes. */
const BAD = WORDPIECE_TOKENS.indexOf("\u2581?");

const WIDTH = 32;

class Bench {
  readonly session: TestSession;
  readonly faulty: FaultyGpu;
  private nextId = 1;

  constructor(session: TestSession, faulty: FaultyGpu) {
    this.session = session;
    this.faulty = faulty;
  }

  static async open(env: CaseEnv, model: Uint8Array): Promise<Bench> {
    const again = async (): Promise<Reopened & { faulty: FaultyGpu }> => {
      const gpu = await openGpu(await findProvider(), { subgroups: env.gpu.features.subgroups });
      const faulty = new FaultyGpu(gpu);
      const file = await openModel([openBytes(model, "model.gguf")]);
      return { gpu: faulty.gpu, file, faulty, close: () => file.close() };
    };
    const { gpu, file, faulty } = await again();
    const session = await TestSession.open(gpu, file, { dtype: "f32", blockTokens: 16 }, undefined, {
      reopen: again,
    });
    return new Bench(session, faulty);
  }

  embed(inputs: readonly EmbedInput[], params: EmbedParams = {}) {
    const id = this.nextId++;
    const done = this.session.session.call({ method: "embed", inputs, params }, id) as Promise<
      Float32Array[]
    >;
    done.catch(() => {}); // looked at where it is awaited
    return { done, abort: () => this.session.session.abort(id) };
  }

  async close(): Promise<void> {
    const { device } = this.session.session.runner.gpu;
    await this.session.close();
    device.destroy();
  }
}

function embedCase(
  name: string,
  run: (bench: Bench, env: CaseEnv) => Promise<void>,
  bytes: () => Uint8Array | Promise<Uint8Array> = tinyEncoder,
): Case {
  return {
    name: `model/embed/${name}`,
    async run(env) {
      const bench = await Bench.open(env, await bytes());
      try {
        await run(bench, env);
        bench.session.checkIdle();
      } finally {
        await bench.close();
      }
    },
  };
}

async function errorOf(work: Promise<unknown>): Promise<TidepoolError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof TidepoolError) return error;
  throw new Error(`not a TidepoolError: ${String(error)}`);
}

function sameVectors(what: string, actual: readonly Float32Array[], expected: readonly Float32Array[]): void {
  equal(actual.length, expected.length, `${what}: vectors`);
  actual.forEach((vector, index) => expectSame(`${what}, text ${index}`, vector, expected[index]!));
}

const together = embedCase("calls at once, in any order, give what each text gives alone", async (bench) => {
  const alone: Float32Array[] = [];
  for (const text of TEXTS) alone.push(...(await bench.embed([text]).done));
  equal(
    alone.map((vector) => Math.abs(Math.hypot(...vector) - 1) < 1e-6),
    TEXTS.map(() => true),
    "lengths of 1",
  );
  const calls = [TEXTS, [...TEXTS].reverse(), TEXTS].map((texts) => bench.embed(texts).done);
  const [first, reversed, last] = await Promise.all(calls);
  sameVectors("first", first!, alone);
  sameVectors("reversed", [...reversed!].reverse(), alone);
  sameVectors("last", last!, alone);
  const [cut] = await bench.embed(["sea"], { dimensions: 8, normalise: false }).done;
  equal(cut?.length, 8, "dimensions");
});

const aborted = embedCase("an aborted call is over, and the others are not", async (bench) => {
  const expected = await bench.embed(TEXTS).done;
  const calls = [0, 1, 2, 3].map(() => bench.embed(TEXTS));
  calls[1]!.abort();
  equal((await errorOf(calls[1]!.done)).code, "aborted", "code");
  for (const at of [0, 2, 3]) sameVectors(`call ${at}`, await calls[at]!.done, expected);
});

const failing = embedCase(
  "a step that fails is computed again, and a second time text by text",
  async (bench) => {
    const expected = await bench.embed(TEXTS).done;
    bench.faulty.arm("dropped", "step");
    sameVectors("dropped once", await bench.embed(TEXTS).done, expected);
    bench.faulty.arm("refused", "step", 3); // both together, and one text alone, whose second time is good
    sameVectors("refused three times", await bench.embed(TEXTS).done, expected);
    equal(bench.faulty.faults, 4, "faults");
  },
);

const notFinite = embedCase(
  "numbers that are not finite fail the call of their text alone",
  async (bench) => {
    const [bad, good] = [
      bench.embed([
        [5, 6],
        [7, BAD, 8],
      ]),
      bench.embed([[5, 6]]),
    ];
    const error = await errorOf(bad.done);
    equal([error.code, error.details["index"]], ["not_finite", 1], "error");
    equal(error.message.startsWith("text 1: "), true, error.message);
    equal((await good.done).length, 1, "the other call");
  },
  () => withNumbers(tinyEncoder(), "token_embd.weight", [BAD * WIDTH + 3], NaN),
);

const lost = embedCase("a device that is lost under it is replaced", async (bench) => {
  const expected = await bench.embed(TEXTS).done;
  const under = bench.embed(TEXTS).done;
  bench.session.session.runner.gpu.device.destroy();
  sameVectors("lost", await under, expected);
});

const refused = embedCase("what an encoder cannot do, and what it cannot take", async (bench) => {
  const { session } = bench.session;
  const code = async (work: Promise<unknown>) => [(await errorOf(work)).code, (await errorOf(work)).message];
  const tokens = [5, 6];
  const calls: Call[] = [
    { method: "score", tokens, from: 0, logits: false },
    { method: "warm", input: { kind: "tokens", tokens } },
  ];
  const asks = [
    bench.session.generate({ kind: "tokens", tokens }).done,
    bench.session.generate({ kind: "text", text: "the sea" }).done,
    ...calls.map((call) => session.call(call)),
  ];
  for (const ask of asks) {
    const [what, message] = await code(ask);
    equal(what, "unsupported", message!);
    equal(message!.includes('"gemma-embedding" makes vectors of texts and generates none'), true, message!);
  }
  const long = "sea ".repeat(70);
  const [what, message] = await code(bench.embed(["sea", long]).done);
  equal(
    [what, message],
    ["too_long", `text 1: 72 tokens are over the limit of 64: use a shorter text, or the option truncate`],
    "long",
  );
  equal((await bench.embed([long], { truncate: true }).done).length, 1, "truncated");
});

const DECODER = "goldens/models/llama/model.gguf";
const CAUSAL = "goldens/models/qwen3embedding/model.gguf";

const withoutPooling: Case = {
  name: "model/embed/a model without pooling is refused with a sentence",
  needs: { shared: true },
  async run(env) {
    const bench = await Bench.open(env, await env.shared(DECODER));
    try {
      const error = await errorOf(bench.embed([[1, 2]]).done);
      equal(error.code, "unsupported", "code");
      equal(error.message.includes('"llama" makes no vectors of texts'), true, error.message);
    } finally {
      await bench.close();
    }
  },
};

const causal: Case = {
  name: "model/embed/a causal model's texts share what they have in common, beside a generation",
  needs: { shared: true },
  async run(env) {
    const bench = await Bench.open(env, await env.shared(CAUSAL));
    try {
      const shared = Array.from({ length: 40 }, (_, i) => (7 * i) % 90);
      const texts = [
        [...shared, 1],
        [...shared, 2, 3],
        [4, 5],
        [...shared, 1],
      ];
      const fresh: Float32Array[] = [];
      for (const text of texts) {
        bench.session.session.scheduler.forget();
        fresh.push(...(await bench.embed([text]).done));
      }
      const generation = bench.session.generate({ kind: "tokens", tokens: shared }, { maxTokens: 8 });
      const vectors = await bench.embed(texts).done;
      await generation.done;
      vectors.forEach((vector, index) => {
        const cosine = vector.reduce((sum, value, i) => sum + value * fresh[index]![i]!, 0);
        equal(cosine > 1 - 1e-6, true, `cosine of text ${index}: ${cosine}`);
      });
      bench.session.checkIdle();
    } finally {
      await bench.close();
    }
  },
};

export const cases: Case[] = [
  ...[together, aborted, failing, notFinite, lost, refused],
  ...[withoutPooling, causal],
];
