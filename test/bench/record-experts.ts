/**
 * Records which experts a model chooses for texts, and what its routers see: prompts in chunks, then tokens that the model
 * continues with, drawn with a seed. Guesses by the later layers' routers are recorded beside them.
 */
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { noGuess, type ActivationHeader, type ActivationStep } from "../../src/cache/experts/activations.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import type { Pause } from "../../src/gpu/segments.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { Runner } from "../../src/model/runner.ts";
import { SeatState } from "../../src/schedule/seat-state.ts";
import { floatToHalf } from "../../src/tier/record/kv-quant.ts";
import { WeightsFingerprint } from "../../src/worker/fingerprint.ts";
import { SkipGate } from "./skip-gate.ts";

const BLOCK_TOKENS = 16;
const CHUNK_TOKENS = 64;
const MAX_DISTANCE = 4;
const GUESSES_A_CHOSEN = 2;

export interface RecordOptions {
  prompts: readonly (readonly number[])[];
  newTokens: number;
  seed: number;
}

/** Runs the prompts one after the other, cut to the model's context; `onHeader` and `onStep` take what is recorded. Takes the file over. */
export async function recordExperts(
  gpu: Gpu,
  file: ModelFile,
  { prompts, newTokens, seed }: RecordOptions,
  onHeader: (header: ActivationHeader) => void,
  onStep: (step: ActivationStep) => void,
): Promise<void> {
  const longest = Math.max(...prompts.map(({ length }) => length)) + newTokens;
  const poolTokens = (Math.ceil(longest / BLOCK_TOKENS) + 1) * BLOCK_TOKENS;
  const pool = { poolTokens, poolStartTokens: poolTokens };
  const options = { blockTokens: BLOCK_TOKENS, chunkTokens: CHUNK_TOKENS, seats: 1, ...pool };
  const weights = new WeightsFingerprint();
  const runner = await Runner.load(
    gpu,
    file,
    { ...options, dtype: "f32", kvDtype: "f32" },
    undefined,
    weights.onPiece,
  );
  try {
    const recorder = await Recorder.open(runner, file, weights.ofWeights());
    onHeader(recorder.header);
    const random = new Random(seed);
    const room = runner.shape.contextTokens - newTokens;
    for (const prompt of prompts) await recorder.run(prompt.slice(0, room), newTokens, random, onStep);
  } finally {
    runner.destroy();
    await file.close();
  }
}

class Recorder {
  readonly header: ActivationHeader;
  private readonly runner: Runner;
  private readonly gate: SkipGate;
  /** What the layers of the running step have shown: experts, weights, inputs. */
  private seen: ArrayBuffer[][] = [];

  private constructor(runner: Runner, header: ActivationHeader, gate: SkipGate) {
    this.runner = runner;
    this.header = header;
    this.gate = gate;
    const rowBytes = [4 * header.chosen, 4 * header.chosen, 4 * header.hiddenSize];
    const stop = async (pause: Pause): Promise<void> => {
      const names = ["expertChoices", "expertWeights", "normed"];
      this.seen.push(await pause.read(names.map((name, i) => pause.between(name, rowBytes[i] as number))));
    };
    for (const layer of header.layers) runner.stopBehind(layer, stop);
  }

  static async open(runner: Runner, file: ModelFile, fingerprint: string): Promise<Recorder> {
    const { shape } = runner;
    const layers = shape.layers.flatMap(({ ffn }, layer) => (ffn?.kind === "experts" ? [layer] : []));
    const first = shape.layers[layers[0] ?? -1]?.ffn;
    if (first?.kind !== "experts") throw new Error(`${file.name} has no experts`);
    const { experts, chosen } = first;
    const names = ["ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps"];
    const tensors = names.flatMap((name) => file.tensors.get(`blk.${layers[0]}.${name}.weight`) ?? []);
    const header: ActivationHeader = {
      ...{ model: file.name, fingerprint, layers, experts, chosen, hiddenSize: shape.hiddenSize },
      matrixBytes: tensors.map(({ sizeBytes }) => sizeBytes / experts),
      distances: Array.from({ length: Math.min(MAX_DISTANCE, layers.length - 1) }, (_, i) => i + 1),
      guesses: Math.min(experts, GUESSES_A_CHOSEN * chosen),
    };
    return new Recorder(runner, header, await SkipGate.read(file, layers, experts));
  }

  async run(
    prompt: readonly number[],
    newTokens: number,
    random: Random,
    onStep: (step: ActivationStep) => void,
  ): Promise<void> {
    const { runner } = this;
    const blocks = Math.ceil((prompt.length + newTokens) / BLOCK_TOKENS);
    const slots = new BlockPool(runner.pool.options.slots).allocate(blocks) as number[];
    const seat = new SeatState([0, 1]);
    seat.start();
    let logits = new Float32Array();
    for (let position = 0; position < prompt.length; position += CHUNK_TOKENS) {
      const tokens = prompt.slice(position, position + CHUNK_TOKENS);
      const end = position + tokens.length;
      logits = await runner.score({
        ...{ position, slots, tokens, firstRow: tokens.length - 1, state: seat.step(end) },
      });
      onStep(this.take("prefill", tokens.length));
    }
    for (let position = prompt.length; position < prompt.length + newTokens; position++) {
      const token = draw(logits, random);
      logits = await runner.scoreDecode({ position, slots, token, state: seat.step(position + 1) });
      onStep(this.take("decode", 1));
    }
  }

  /** What the last step has shown. */
  private take(phase: ActivationStep["phase"], tokens: number): ActivationStep {
    const [experts, weights, inputs] = [0, 1, 2].map((i) =>
      this.seen.map((layer) => layer[i] as ArrayBuffer),
    );
    this.seen = [];
    const seen = (inputs as ArrayBuffer[]).map((layer) => new Float32Array(layer));
    return {
      ...{ phase, tokens },
      experts: Uint16Array.from((experts as ArrayBuffer[]).flatMap((layer) => [...new Uint32Array(layer)])),
      weights: Float32Array.from((weights as ArrayBuffer[]).flatMap((layer) => [...new Float32Array(layer)])),
      inputs: Uint16Array.from(seen.flatMap((layer) => Array.from(layer, floatToHalf))),
      ...(phase === "decode" && { guesses: this.guesses(seen) }),
    };
  }

  private guesses(inputs: readonly Float32Array[]): Uint16Array {
    const { distances, guesses: count } = this.header;
    const all = new Uint16Array(inputs.length * distances.length * count).fill(noGuess);
    for (const layer of inputs.keys())
      for (const [place, distance] of distances.entries()) {
        const input = inputs[layer - distance];
        if (input)
          all.set(
            this.gate.guess(layer - distance, distance, input, count),
            (layer * distances.length + place) * count,
          );
      }
    return all;
  }
}

/** A token by the softmax of the logits. */
function draw(logits: Float32Array, random: Random): number {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const shares = logits.map((logit) => Math.exp(logit - most));
  let left = random.next() * shares.reduce((sum, share) => sum + share, 0);
  for (const [token, share] of shares.entries()) if ((left -= share) <= 0) return token;
  return logits.length - 1;
}
