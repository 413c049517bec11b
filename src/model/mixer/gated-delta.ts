/**
 * The gated delta rule (Gated DeltaNet, arXiv 2412.06464), the recurrent mixer of Qwen3-Next and Qwen3.5: its tensors, and
 * its ops: the input matrices, the convolution, the recurrence (token by token in decode, in runs of 32 rows in prefill), each
 * head's norm and gate, and the output matrix. Its data and costs are in shape/mixer/gated-delta.ts. Which slot a sequence
 * has is not its business.
 */
import chunkColumnsCode from "../../../shaders/delta-chunk-columns.wgsl";
import chunkCode from "../../../shaders/delta-chunk.wgsl";
import normCode from "../../../shaders/delta-norm.wgsl";
import prepareCode from "../../../shaders/delta-prepare.wgsl";
import stepColumnsCode from "../../../shaders/delta-step-columns.wgsl";
import stepCode from "../../../shaders/delta-step.wgsl";
import deltaLib from "../../../shaders/lib/delta.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { KernelSource, Kernels, KernelTypes, Pipeline } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { deltaCost, deltaSizes, type DeltaMixer } from "../../shape/mixer/gated-delta.ts";
import { need, needPositive } from "../arch/need.ts";
import { MATRIX, VECTOR, type LayerTensors, type TensorSpec } from "../arch/tensor-lookup.ts";
import { largestFinite } from "../op/kernel-parts.ts";
import type { Part, Projection } from "../tensor-loader.ts";
import { checkConv, convolveOp, loadConv, type ConvWeights } from "./convolution.ts";
import type { MixerContext, MixerKind } from "./kind.ts";

interface DeltaWeights {
  /** qkv, z, then b and a. */
  input: Projection;
  conv: ConvWeights;
  /** f32 [valueHeads]; a = -exp(A_log). */
  dtBias: GPUBuffer;
  a: GPUBuffer;
  /** f32 [valueDim]. */
  norm: GPUBuffer;
  output: Projection;
}

export const GATED_DELTA: MixerKind<DeltaMixer, DeltaWeights> = {
  kind: "gated-delta",
  safetensorsNames: {
    attn_qkv: "linear_attn.in_proj_qkv",
    attn_gate: "linear_attn.in_proj_z",
    ssm_in: "linear_attn.in_proj_qkvz",
    ssm_ba: "linear_attn.in_proj_ba",
    ssm_beta: "linear_attn.in_proj_b",
    ssm_alpha: "linear_attn.in_proj_a",
    ssm_conv1d: "linear_attn.conv1d",
    "ssm_dt.bias": "linear_attn.dt_bias",
    ssm_a: "linear_attn.A_log",
    ssm_norm: "linear_attn.norm",
    ssm_out: "linear_attn.out_proj",
  },

  keeps: (mixer) => ({ state: { floats: deltaSizes(mixer).stateFloats } }),

  check({ keyHeads, valueHeads, keyDim, valueDim, kernel }, _, where) {
    checkConv(kernel, where);
    needPositive({ keyHeads, valueHeads, keyDim, valueDim }, `${where}: a gated delta rule`);
    need(valueHeads % keyHeads === 0, `${where}: ${valueHeads} value heads for ${keyHeads} key heads`);
    need(keyDim <= MAX_KEY_DIM, `${where}: keys of ${keyDim} entries, at most ${MAX_KEY_DIM}`);
  },

  cost: (mixer, units) => deltaCost(units, mixer),

  tensors: (mixer, layer) => [
    ...OWN_TENSORS,
    ...[...new Set(inputsOf(mixer, layer).map(([name]) => name))].map((name): TensorSpec => [
      name,
      MATRIX,
      true,
    ]),
  ],

  async load(mixer, layer) {
    const { values, channels } = deltaSizes(mixer);
    const { valueHeads, valueDim, kernel } = mixer;
    return {
      input: await layer.projection(layer.hiddenSize, inputsOf(mixer, layer)),
      conv: await loadConv(layer, "ssm_conv1d", channels, kernel),
      dtBias: await layer.vector("ssm_dt", valueHeads, "bias"),
      a: await layer.decays("ssm_a", valueHeads),
      norm: await layer.vector("ssm_norm", valueDim),
      output: await layer.projection(values, [["ssm_out", layer.hiddenSize]]),
    };
  },

  buffers(mixer, { maxRows, elemBytes }) {
    const { values, channels, mixed } = deltaSizes(mixer);
    return {
      mixed: maxRows * mixed * 4,
      convolved: maxRows * channels * 4,
      recurred: maxRows * values * 4,
      attended: maxRows * values * elemBytes,
      scratch: deltaScratchBytes(mixer, maxRows),
    };
  },

  async ops(mixer, weights, context) {
    const { channels, mixed } = deltaSizes(mixer);
    const sizes = { channels, kernel: mixer.kernel, stride: mixed, offset: 0 };
    return [
      ...(await context.project(weights.input, context.normed, context.buffer("mixed"), mixed, "f32")),
      await convolveOp(context, weights.conv, sizes),
      ...(await recurOps(mixer, weights, context)),
      ...(await context.output(weights.output, context.buffer("attended"))),
    ];
  },
};

const OWN_TENSORS: readonly TensorSpec[] = [
  ["ssm_conv1d", MATRIX, true],
  ["ssm_norm", VECTOR, true],
  ["ssm_out", MATRIX, true],
  ["ssm_dt", ["bias"], true],
  ["ssm_a", [""], true],
];

/** q, k, v and z, whose rows may stand key head by key head in one tensor (Qwen3-Next in safetensors); then b and a. */
function inputsOf(mixer: DeltaMixer, layer: LayerTensors): Part[] {
  const { values, channels } = deltaSizes(mixer);
  const own: Part[] = [
    ["attn_qkv", channels],
    ["attn_gate", values],
  ];
  return [...(layer.has("ssm_in") ? groupedInputs(mixer) : own), ...gatesOf(mixer)];
}

function groupedInputs({ keyHeads, valueHeads, keyDim, valueDim }: DeltaMixer): Part[] {
  const inGroup = (valueHeads / keyHeads) * valueDim;
  const sizes = [keyDim, keyDim, inGroup, inGroup];
  const perGroup = 2 * (keyDim + inGroup);
  const of = keyHeads * perGroup;
  let before = 0;
  return sizes.flatMap((rows) => {
    const offset = before;
    before += rows;
    return Array.from({ length: keyHeads }, (_, group): Part => {
      return ["ssm_in", rows, { first: group * perGroup + offset, of }];
    });
  });
}

/** b and a: a matrix each, or one. */
function gatesOf({ valueHeads, baGrouped }: DeltaMixer): Part[] {
  if (baGrouped) return [["ssm_ba", 2 * valueHeads]];
  return [
    ["ssm_beta", valueHeads],
    ["ssm_alpha", valueHeads],
  ];
}

function recurOps(
  mixer: DeltaMixer,
  { dtBias, a, norm }: DeltaWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { kernels, phase, shape } = context;
  const { values, channels, mixed, convFloats } = deltaSizes(mixer);
  const bOffset = channels + values;
  return deltaOps(kernels, context.types(), {
    ...{ ...mixer, phase, dtBias, a, norm, eps: shape.normEps },
    ...{ mixed: context.buffer("mixed"), mixedStride: mixed, zOffset: channels, bOffset },
    aOffset: bOffset + (mixer.baGrouped ? mixer.valueHeads / mixer.keyHeads : mixer.valueHeads),
    ...{ convolved: context.buffer("convolved"), y: context.buffer("recurred") },
    ...{ out: context.buffer("attended"), scratch: context.buffer("scratch") },
    ...{ ...context.state, stateOffset: convFloats },
  });
}

/** What the recurrence depends on. */
export type DeltaShape = Omit<DeltaMixer, "kind" | "kernel" | "baGrouped">;

export interface DeltaInput extends DeltaShape {
  label?: string;
  phase: "prefill" | "decode";
  /** f32 [rows, mixedStride]: what the input projections made; z, b and a are read. */
  mixed: GPUBuffer;
  mixedStride: number;
  /** Where z [valueHeads * valueDim] stands in a mixed row. */
  zOffset: number;
  /** Value head h's b stands at bOffset + h and its a at aOffset + h, unless `baGrouped`. */
  bOffset: number;
  aOffset: number;
  /**
   * true: key head by key head, [b r; a r] with r = valueHeads / keyHeads, so that h's b stands at bOffset +
   * floor(h / r) * 2r + h % r and its a as far behind aOffset (bOffset + r).
   */
  baGrouped: boolean;
  /** f32 [rows, 2 * keyHeads * keyDim + valueHeads * valueDim]: q | k | v after convolution and silu. */
  convolved: GPUBuffer;
  /** f32 [slots][stateStride]; at stateOffset of a slot the matrices [valueHeads][keyDim][valueDim]. */
  state: GPUBuffer;
  /** Floats of a slot. */
  stateStride: number;
  stateOffset: number;
  /** f32 [valueHeads]. */
  dtBias: GPUBuffer;
  /** f32 [valueHeads]: -exp(A_log), negative. */
  a: GPUBuffer;
  /** f32 [valueDim], not zero-centred, and the eps of the RMS norm that it scales. */
  norm: GPUBuffer;
  eps: number;
  /** f32 [rows, valueHeads * valueDim], between the ops. */
  y: GPUBuffer;
  /** elem [rows, valueHeads * valueDim]. */
  out: GPUBuffer;
  /** prefill: at least `deltaScratchBytes(...)`; layers may share it. */
  scratch?: GPUBuffer;
}

/** Floats of the matrix part of a layer's state: valueHeads * keyDim * valueDim. */
export function deltaStateSize({ valueHeads, keyDim, valueDim }: DeltaShape): number {
  return valueHeads * keyDim * valueDim;
}

/** Rows of a run and the floats prepared for each head of it: RUN and RUN_FLOATS of shaders/lib/delta.wgsl. */
const RUN_ROWS = 32;
const RUN_FLOATS = 2 * RUN_ROWS ** 2 + 3 * RUN_ROWS + 4;

/** Bytes of `scratch` for prefill steps of up to `maxRows` rows. */
export function deltaScratchBytes({ valueHeads }: DeltaShape, maxRows: number): number {
  return Math.ceil(maxRows / RUN_ROWS) * valueHeads * RUN_FLOATS * 4;
}

/** Heads whose outputs a workgroup of delta-norm.wgsl norms. */
const NORM_HEADS = 16;

const MAX_KEY_DIM = 256;

/** The mixer from the convolved row to the row of the output projection: three ops in prefill, two in decode. */
export async function deltaOps(kernels: Kernels, types: KernelTypes, input: DeltaInput): Promise<Op[]> {
  checkShape(input);
  const op = uniformBuffer(kernels.gpu.device, opWords(input), "delta op");
  const build = { kernels, types, input, op };
  const norm = await normOp(build);
  if (input.phase === "decode") return [await stepOp(build), norm];
  return [await prepareOp(build), await chunkOp(build), norm];
}

interface Build {
  kernels: Kernels;
  types: KernelTypes;
  input: DeltaInput;
  op: GPUBuffer;
}

function checkShape(input: DeltaInput): void {
  const { keyHeads, valueHeads, keyDim, valueDim, stateOffset, stateStride } = input;
  assert(
    keyHeads > 0 && valueHeads % keyHeads === 0,
    `delta: ${valueHeads} value heads for ${keyHeads} key heads`,
  );
  assert(keyDim > 0 && keyDim <= MAX_KEY_DIM, `delta: keys of ${keyDim} entries, at most ${MAX_KEY_DIM}`);
  assert(valueDim > 0, `delta: values of ${valueDim} entries`);
  assert(
    stateOffset + deltaStateSize(input) <= stateStride,
    `delta: the matrices at ${stateOffset} do not fit a state of ${stateStride} floats`,
  );
}

/** `struct Op` of shaders/lib/delta.wgsl. */
function opWords(input: DeltaInput): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(14);
  words.set([input.keyHeads, input.valueHeads, input.keyDim, input.valueDim]);
  words.set([input.mixedStride, input.zOffset, input.bOffset, input.aOffset], 4);
  words.set([input.stateStride, input.stateOffset], 8);
  words.set([input.keyHeadOrder === "interleaved" ? 1 : 0, input.baGrouped ? 1 : 0], 10);
  new Float32Array(words.buffer).set([1 / Math.sqrt(input.keyDim), input.eps], 12);
  return words;
}

function source(name: string, code: string): KernelSource {
  return { name, code, libs: [stepLib, bounded, deltaLib] };
}

function labelOf(input: DeltaInput, part: string): string {
  return `${input.label ?? "delta"} ${part}`;
}

/** A pipeline, and the columns of S that one of its workgroups owns. */
interface ColumnsPipeline {
  pipeline: Pipeline;
  columns: number;
}

/** One token of each sequence. */
async function stepOp(build: Build): Promise<Op> {
  const { valueHeads, valueDim, mixed, convolved, dtBias, a, state, y } = build.input;
  const { pipeline, columns } = await stepPipeline(build);
  return {
    label: labelOf(build.input, "step"),
    pipeline,
    group: build.kernels.bind(pipeline, 0, [build.op, mixed, convolved, dtBias, a, state, y]),
    grid: (step) => [Math.ceil(valueDim / columns), valueHeads, step.sequences],
  };
}

/** Rows of a column that an invocation of delta-step.wgsl holds, and invocations of delta-step-columns.wgsl. */
const HELD_ROWS = 16;
const STEP_COLUMNS = 64;

/** A function of the adapter and the shape alone, so that a request's numbers never depend on its batch. */
async function stepPipeline({ kernels, types, input }: Build): Promise<ColumnsPipeline> {
  if (kernels.gpu.adapter.software) {
    const kernel = source("delta-step-columns", stepColumnsCode);
    return { pipeline: await kernels.pipeline(kernel, types), columns: STEP_COLUMNS };
  }
  const parts = Math.ceil(input.keyDim / HELD_ROWS);
  const columns = parts <= 8 ? 32 : 16;
  const overrides = { PARTS: parts, COLUMNS: columns, WG: parts * columns };
  return { pipeline: await kernels.pipeline(source("delta-step", stepCode), types, overrides), columns };
}

function scratchOf({ scratch }: DeltaInput): GPUBuffer {
  assert(scratch, "delta: prefill needs scratch");
  return scratch;
}

async function prepareOp({ kernels, types, input, op }: Build): Promise<Op> {
  const { valueHeads, mixed, convolved, dtBias, a } = input;
  const pipeline = await kernels.pipeline(source("delta-prepare", prepareCode), types);
  return {
    label: labelOf(input, "prepare"),
    pipeline,
    group: kernels.bind(pipeline, 0, [op, mixed, convolved, dtBias, a, scratchOf(input)]),
    grid: (step) => [Math.ceil(step.rows / RUN_ROWS), valueHeads, 1],
  };
}

/** From run to run with the state. */
async function chunkOp(build: Build): Promise<Op> {
  const { valueHeads, valueDim, convolved, state, y } = build.input;
  const { pipeline, columns } = await chunkPipeline(build);
  return {
    label: labelOf(build.input, "chunk"),
    pipeline,
    group: build.kernels.bind(pipeline, 0, [build.op, convolved, scratchOf(build.input), state, y]),
    grid: () => [Math.ceil(valueDim / columns), valueHeads, 1],
  };
}

/** As many columns in a workgroup as keep the matrix within 8 KiB of workgroup memory, at most 16. */
async function chunkPipeline({ kernels, types, input }: Build): Promise<ColumnsPipeline> {
  const { adapter, features, device } = kernels.gpu;
  const columns = input.keyDim <= 128 ? 16 : 8;
  if (adapter.software && features.subgroups) {
    const kernel = { ...source("delta-chunk-columns", chunkColumnsCode), subgroups: true };
    const SHARE = device.adapterInfo.subgroupMinSize >= 8 ? 8 : 4;
    const overrides = { COLUMNS: columns, MATRIX: input.keyDim * columns, SHARE };
    return { pipeline: await kernels.pipeline(kernel, types, overrides), columns };
  }
  const quads = columns / 4;
  const overrides = { QUADS: quads, MATRIX: input.keyDim * quads };
  return { pipeline: await kernels.pipeline(source("delta-chunk", chunkCode), types, overrides), columns };
}

async function normOp({ kernels, types, input, op }: Build): Promise<Op> {
  const { valueHeads, mixed, norm, y, out } = input;
  const overrides = { LIMIT: largestFinite(types.elem) };
  const pipeline = await kernels.pipeline(source("delta-norm", normCode), types, overrides);
  return {
    label: labelOf(input, "norm"),
    pipeline,
    group: kernels.bind(pipeline, 0, [op, y, mixed, norm, out]),
    grid: (step) => [Math.ceil((step.rows * valueHeads) / NORM_HEADS), 1, 1],
  };
}
