/**
 * A mixture of experts: router, choice, the chosen experts' products, their weighted sum, and an expert that every token has. With
 * all experts on the GPU nothing is read back; otherwise model/experts runs the ops that are marked, for those that are there. Its
 * data and costs are in shape/ffn/experts.ts, its own kernels' ops in routing.ts.
 */
import type { Op } from "../../gpu/op.ts";
import { expertsCost, type ExpertsFeedForward } from "../../shape/ffn/experts.ts";
import { LANES, need, needPositive } from "../arch/need.ts";
import { MATRIX, VECTOR, type LayerTensors, type TensorSpec } from "../arch/tensor-lookup.ts";
import type { BufferSizes } from "../layer-part.ts";
import {
  matmulOp,
  matmulTileRows,
  matvecOp,
  type ExpertChoice,
  type SortedChoice,
} from "../matrix/products.ts";
import type { ExpertCopy } from "../experts/copies.ts";
import { expertMatrices } from "../experts/matrices.ts";
import type { GuessBuffers, GuessOps } from "../experts/predictor.ts";
import type { OpContext } from "../op/op-context.ts";
import type { ExpertMatrices, LayerLoader, Projection } from "../tensor-loader.ts";
import type { FeedForwardKind } from "./kind.ts";
import {
  besideBuffers,
  besideOps,
  besideSumOps,
  besideTensors,
  loadBeside,
  type BesideWeights,
} from "./beside.ts";
import { activatedOps, activationOp, loadMlp, MLP, mlpBuffers, mlpTensors, type MlpWeights } from "./mlp.ts";
import { expertsSumOp, MAX_ROUTED, routeOp, sortExpertsOp, unimportantOp } from "./routing.ts";

interface ExpertsWeights {
  router: Projection;
  /** Biases of the choice, then factors of the weights; which of them there are. */
  vectors: GPUBuffer | undefined;
  isBiased: boolean;
  isScaled: boolean;
  /** Gate, then up, which stand side by side in a row; or both in one tensor. */
  gateUp: readonly ExpertMatrices[];
  down: ExpertMatrices;
  shared: MlpWeights | undefined;
  sharedGate: Projection | undefined;
  beside: BesideWeights | undefined;
}

const SHARED = "_shexp";
const CHOICE_BIAS = ["exp_probs_b", "bias"] as const;
const WEIGHT_FACTORS = ["ffn_down_exps", "scale"] as const;
const SHARED_GATE = "ffn_gate_inp_shexp";

export const EXPERTS: FeedForwardKind<ExpertsFeedForward, ExpertsWeights> = {
  kind: "experts",
  safetensorsNames: { ...MLP.safetensorsNames, ...expertNames("mlp") },

  check({ experts, chosen, width, shared, beside, routing }, _, where) {
    const { count, used } = routing.groups ?? { count: 1, used: 1 };
    needPositive({ experts, chosen, groups: count, "groups used": used }, `${where}: a mixture of experts`);
    need(experts <= MAX_ROUTED, `${where}: ${experts} experts are more than ${MAX_ROUTED}`);
    need(
      experts % count === 0 && used <= count && chosen <= (experts / count) * used,
      `${where}: ${chosen} of ${experts} experts in ${used} of ${count} groups`,
    );
    for (const size of [width, shared?.mlp.width ?? LANES, beside?.width ?? LANES])
      need(
        size > 0 && size % LANES === 0,
        `${where}: an expert's width ${size} is not a multiple of ${LANES}`,
      );
  },

  cost: (ffn, units) => expertsCost(units, ffn),

  tensors: (ffn, layer) => [
    ["ffn_gate_inp", MATRIX, true],
    [CHOICE_BIAS[0], [CHOICE_BIAS[1]], false],
    [WEIGHT_FACTORS[0], [WEIGHT_FACTORS[1]], false],
    ...expertMatrices(ffn, layer, 0).flatMap(({ name }) => expertSpecs(name, ffn.experts, layer)),
    ...(ffn.shared ? mlpTensors(ffn.shared.mlp, SHARED) : []),
    ...(ffn.shared?.sigmoidGate ? [[SHARED_GATE, VECTOR, true] as const] : []),
    ...(ffn.beside ? besideTensors(ffn.beside) : []),
  ],

  async load(ffn, layer) {
    const { experts, shared, beside } = ffn;
    const d = layer.hiddenSize;
    const matrices = expertMatrices(ffn, layer, d);
    const loaded = await eachInTurn(matrices, (matrix) => layer.experts(matrix, experts));
    return {
      router: await loadRouter(ffn, layer),
      vectors: await layer.vectorsOf([CHOICE_BIAS, WEIGHT_FACTORS], experts),
      isBiased: layer.has(...CHOICE_BIAS),
      isScaled: layer.has(...WEIGHT_FACTORS),
      gateUp: loaded.slice(0, -1),
      down: loaded.at(-1) as ExpertMatrices,
      shared: shared && (await loadMlp(shared.mlp, layer, SHARED)),
      sharedGate: shared?.sigmoidGate ? await layer.projection(d, [[SHARED_GATE, 1]]) : undefined,
      beside: beside && (await loadBeside(beside, layer)),
    };
  },

  buffers({ experts, chosen, shared, beside, ...expert }, { maxRows, elemBytes, hiddenSize }) {
    const choices = maxRows * chosen;
    const own = mlpBuffers(expert, choices * elemBytes);
    const others = [shared?.mlp, beside].map((mlp) => (mlp ? mlpBuffers(mlp, maxRows * elemBytes) : {}));
    return {
      ...others.reduce(largestOf, own),
      expertLogits: maxRows * experts * 4,
      expertChoices: choices * 4,
      expertWeights: choices * 4,
      expertUnimportant: choices * 4,
      expertOrder: choices * 4,
      expertTiles: (1 + choices) * 16,
      expertOutputs: choices * hiddenSize * 4,
      ...(shared && { sharedOutput: maxRows * hiddenSize * 4 }),
      ...(shared?.sigmoidGate && { sharedGate: maxRows * 4 }),
      ...(beside && besideBuffers(maxRows, hiddenSize, elemBytes)),
    };
  },

  async ops(ffn, weights, context) {
    const { beside } = weights;
    return [
      ...(ffn.beside && beside ? await besideOps(ffn.beside, beside, context) : []),
      ...(await routeOps(ffn, weights, context)),
      ...(await sharedOps(ffn, weights, context)),
      ...(await chosenOps(ffn, weights, context)),
      await sumOp(ffn, weights, context),
      ...(beside ? await besideSumOps(beside, context) : []),
    ];
  },
};

/**
 * Their names in safetensors: a tensor of each expert, or one of all without a suffix.
 * @param module what stands before all names @param parts the names of gate, up and down
 */
export function expertNames(
  module: string,
  [gate, up, down] = ["gate_proj", "up_proj", "down_proj"],
  shared = "shared_experts",
): Record<string, string> {
  return {
    ffn_gate_inp: `${module}.gate`,
    "exp_probs_b.bias": `${module}.gate.e_score_correction_bias`,
    "ffn_gate.N": `${module}.experts.{}.${gate}`,
    "ffn_up.N": `${module}.experts.{}.${up}`,
    "ffn_down.N": `${module}.experts.{}.${down}`,
    "ffn_gate_up_exps.weight": `${module}.experts.gate_up_proj`,
    "ffn_up_exps.weight": `${module}.experts.up_proj`,
    "ffn_down_exps.weight": `${module}.experts.down_proj`,
    ffn_gate_shexp: `${module}.${shared}.gate_proj`,
    ffn_up_shexp: `${module}.${shared}.up_proj`,
    ffn_down_shexp: `${module}.${shared}.down_proj`,
    ffn_gate_inp_shexp: `${module}.shared_expert_gate`,
  };
}

/** Beside a feed-forward, it reads a vector of length 1, but for its weights. */
async function loadRouter({ experts, beside }: ExpertsFeedForward, layer: LayerLoader): Promise<Projection> {
  const router = await layer.projection(layer.hiddenSize, [["ffn_gate_inp", experts]]);
  if (!beside) return router;
  return router.map((part) => ({ ...part, scale: 1 / Math.sqrt(layer.hiddenSize) }));
}

/** The buffers that are live between the router and the experts, and the bytes of a row of each; what is read of the choices comes first. */
export function expertState(
  { chosen, shared, beside }: ExpertsFeedForward,
  hiddenSize: number,
): Record<string, number> {
  return {
    ...{ expertChoices: 4 * chosen, expertWeights: 4 * chosen, expertUnimportant: 4 * chosen },
    ...(shared && { sharedOutput: 4 * hiddenSize }),
    ...(shared?.sigmoidGate && { sharedGate: 4 }),
    ...(beside && { besideOutput: 4 * hiddenSize }),
  };
}

/** One tensor of all experts, or one of each. */
function expertSpecs(name: string, experts: number, layer: LayerTensors): TensorSpec[] {
  if (!layer.has(`${name}.0`)) return [[`${name}_exps`, MATRIX, true]];
  return Array.from({ length: experts }, (_, expert) => [`${name}.${expert}`, VECTOR, true]);
}

async function eachInTurn<T, R>(items: readonly T[], run: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const item of items) results.push(await run(item));
  return results;
}

function largestOf(a: BufferSizes, b: BufferSizes): BufferSizes {
  const names = [...Object.keys(a), ...Object.keys(b)];
  return Object.fromEntries(names.map((name) => [name, Math.max(a[name] ?? 0, b[name] ?? 0)]));
}

async function routeOps(
  { experts, chosen: perRow, routing }: ExpertsFeedForward,
  { router, vectors, isBiased, isScaled, beside, down }: ExpertsWeights,
  context: OpContext,
): Promise<Op[]> {
  const logits = context.buffer("expertLogits");
  const [chosen, weights] = [context.buffer("expertChoices"), context.buffer("expertWeights")];
  const x = beside ? context.buffer("routerInput") : context.normed;
  const input = { experts, perRow, routing, logits, isBiased, isScaled, vectors, chosen, weights };
  const ops = [
    ...(await context.project(router, x, logits, experts, "f32")),
    await routeOp(context.kernels, context.types(), input),
  ];
  const copy = copyOf(down, context);
  if (!copy) return ops;
  const unimportant = context.buffer("expertUnimportant");
  const marked = { ...input, above: copy.above, unimportant };
  return [...ops, await unimportantOp(context.kernels, context.types(), marked)];
}

/** Decode computes with copies what is not there and matters little; prefill brings all. */
function copyOf({ copy }: ExpertMatrices, { phase }: OpContext): ExpertCopy | undefined {
  return phase === "decode" ? copy : undefined;
}

/** What a layer would choose from another input; undefined if its router has an input of its own. */
export async function guessOps(
  { experts, routing }: ExpertsFeedForward,
  weights: unknown,
  context: OpContext,
  { input: x, logits, chosen, weights: shares, perRow }: GuessBuffers,
): Promise<GuessOps> {
  const { router, vectors, isBiased, isScaled, beside } = weights as ExpertsWeights;
  if (beside) return undefined;
  const input = { experts, perRow, routing, logits, isBiased, isScaled, vectors, chosen, weights: shares };
  return [
    ...(await context.project(router, x, logits, experts, "f32")),
    await routeOp(context.kernels, context.types(), input),
  ];
}

/** To "sharedOutput" and the logit of its gate. */
async function sharedOps(
  { shared }: ExpertsFeedForward,
  weights: ExpertsWeights,
  context: OpContext,
): Promise<Op[]> {
  if (!shared || !weights.shared) return [];
  const { normed } = context;
  const output = context.buffer("sharedOutput");
  const { hiddenSize } = context.shape;
  return [
    ...(await activatedOps(shared.mlp, weights.shared, context)),
    ...(await context.project(weights.shared.down, context.buffer("activated"), output, hiddenSize, "f32")),
    ...(weights.sharedGate
      ? await context.project(weights.sharedGate, normed, context.buffer("sharedGate"), 1, "f32")
      : []),
  ];
}

/** From the choices to what each chosen expert gives. */
async function chosenOps(
  ffn: ExpertsFeedForward,
  { gateUp, down }: ExpertsWeights,
  context: OpContext,
): Promise<Op[]> {
  const { chosen: perRow, width, activation, gated, alternating = false } = ffn;
  const { kernels, dtype, shape } = context;
  const [between, act] = [context.buffer("gateUp"), context.buffer("activated")];
  const stride = (gated ? 2 : 1) * width;
  const choice = { experts: ffn.experts, perRow, chosen: context.buffer("expertChoices") };
  const { ops, sorted } = await sortOps(ffn, context);
  const products = async (matrices: ExpertMatrices, perInput: number, into: Into) => {
    const which = { ...choice, perInput, ...(sorted && { sorted }) };
    const whole = await expertProducts(context, matrices, which, into);
    const copy = copyOf(matrices, context);
    if (!copy) return whole;
    const unimportant = { ...which, chosen: context.buffer("expertUnimportant") };
    return [...whole, ...(await expertProducts(context, { ...matrices, ...copy }, unimportant, into))];
  };
  const pass: Op[] = [];
  for (const [place, matrices] of gateUp.entries())
    pass.push(
      ...(await products(matrices, perRow, {
        ...{ x: context.normed, y: between, outStride: stride, outOffset: place * width, out: dtype },
      })),
    );
  pass.push(
    await activationOp(kernels, context.types(), {
      ...{ gateUp: between, act, ff: width, activation, gated, alternating, perRow },
    }),
  );
  const outputs = context.buffer("expertOutputs");
  const into = { x: act, y: outputs, outStride: shape.hiddenSize, outOffset: 0, out: "f32" } as const;
  pass.push(...(await products(down, 1, into)));
  return [...ops, ...(down.slots ? pass.map((op) => ({ ...op, ofExperts: true as const })) : pass)];
}

/** Prefill computes the rows of an expert together. */
async function sortOps(
  { experts, chosen: perRow }: ExpertsFeedForward,
  context: OpContext,
): Promise<{ ops: Op[]; sorted?: SortedChoice }> {
  if (context.phase === "decode") return { ops: [] };
  const { kernels, shape } = context;
  const sorted = { order: context.buffer("expertOrder"), tiles: context.buffer("expertTiles") };
  const height = matmulTileRows(kernels, shape.hiddenSize);
  const input = { experts, perRow, height, chosen: context.buffer("expertChoices"), sorted };
  return { ops: [await sortExpertsOp(kernels, context.types(), input)], sorted };
}

/** Where a product's rows come from and go to. */
interface Into {
  x: GPUBuffer;
  y: GPUBuffer;
  outStride: number;
  outOffset: number;
  out: "f32" | "f16";
}

async function expertProducts(
  context: OpContext,
  { weight, rows, bias, slots }: ExpertMatrices,
  choice: Omit<ExpertChoice, "rows">,
  { out, ...into }: Into,
): Promise<Op[]> {
  const maker = context.phase === "prefill" ? matmulOp : matvecOp;
  const experts = { ...choice, rows, ...(slots && { slots }) };
  return eachInTurn(weight.pieces, (piece) =>
    maker(context.kernels, context.types(out), { weight, piece, experts, ...into, ...(bias && { bias }) }),
  );
}

function sumOp(
  { chosen: perRow }: ExpertsFeedForward,
  { shared, sharedGate }: ExpertsWeights,
  context: OpContext,
): Promise<Op> {
  return expertsSumOp(context.kernels, context.types(), {
    ...{ d: context.shape.hiddenSize, perRow, ...context.target },
    outputs: context.buffer("expertOutputs"),
    weights: context.buffer("expertWeights"),
    shared: shared && context.buffer("sharedOutput"),
    sharedGate: sharedGate && context.buffer("sharedGate"),
  });
}
