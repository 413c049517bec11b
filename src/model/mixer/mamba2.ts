/**
 * Mamba-2: its tensors, and its ops: the input matrix, the convolution, the recurrence (one row of each sequence in decode,
 * chunks of rows in prefill), then the skip connection, the gate, the grouped norm and the output matrix. Its data and costs
 * are in shape/mixer/mamba2.ts.
 * Formulas: Dao and Gu, "Transformers are SSMs" (2024), section 6, with a scalar decay for each head.
 */
import chunkCode from "../../../shaders/mamba-chunk.wgsl";
import decayCode from "../../../shaders/mamba-decay.wgsl";
import gateCode from "../../../shaders/mamba-gate.wgsl";
import scoresCode from "../../../shaders/mamba-scores.wgsl";
import statesCode from "../../../shaders/mamba-states.wgsl";
import stepCode from "../../../shaders/mamba-step.wgsl";
import gateFours from "../../../shaders/lib/mamba-gate-fours.wgsl";
import gateSingles from "../../../shaders/lib/mamba-gate-singles.wgsl";
import stateFours from "../../../shaders/lib/mamba-state-fours.wgsl";
import stateSingles from "../../../shaders/lib/mamba-state-singles.wgsl";
import foursLib from "../../../shaders/lib/mamba-fours.wgsl";
import mambaLib from "../../../shaders/lib/mamba.wgsl";
import rowsLib from "../../../shaders/lib/mamba-rows.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import {
  mambaCost,
  mambaState,
  mambaWidths,
  type MambaDims,
  type MambaMixer,
} from "../../shape/mixer/mamba2.ts";
import { needPositive, need } from "../arch/need.ts";
import { MATRIX, VECTOR } from "../arch/tensor-lookup.ts";
import { largestFinite, reduceFragment } from "../op/kernel-parts.ts";
import type { Projection } from "../tensor-loader.ts";
import { checkConv, convolveOp, loadConv, type ConvWeights } from "./convolution.ts";
import type { MixerContext, MixerKind } from "./kind.ts";

interface MambaWeights {
  /** z, xBC and dt. */
  input: Projection;
  conv: ConvWeights;
  /** f32 [heads]; a = -exp(A_log). */
  dtBias: GPUBuffer;
  a: GPUBuffer;
  d: GPUBuffer;
  /** f32 [inner]; some Falcon-H1 have none. */
  norm: GPUBuffer | undefined;
  output: Projection;
}

/** The names of its tensors in safetensors, by what the mixer is called there. */
export function mambaNames(mixer: string): Readonly<Record<string, string>> {
  return {
    ssm_in: `${mixer}.in_proj`,
    ssm_conv1d: `${mixer}.conv1d`,
    ssm_out: `${mixer}.out_proj`,
    ssm_norm: `${mixer}.norm`,
    "ssm_dt.bias": `${mixer}.dt_bias`,
    ssm_a: `${mixer}.A_log`,
    ssm_d: `${mixer}.D`,
  };
}

export const MAMBA2: MixerKind<MambaMixer, MambaWeights> = {
  kind: "mamba2",
  safetensorsNames: mambaNames("mamba"),

  keeps: (mixer) => ({ state: { floats: mambaState(mixer).stateFloats } }),

  check({ heads, headDim, groups, stateSize, kernel }, _, where) {
    checkConv(kernel, where);
    needPositive({ heads, headDim, groups, stateSize }, `${where}: Mamba-2`);
    need(heads % groups === 0, `${where}: ${heads} heads do not fall into ${groups} groups`);
  },

  cost: (mixer, units) => mambaCost(units, { ...mixer, inner: mambaWidths(mixer).inner }),

  tensors: () => [
    ["ssm_in", MATRIX, true],
    ["ssm_conv1d", MATRIX, true],
    ["ssm_out", MATRIX, true],
    ["ssm_norm", VECTOR, false],
    ["ssm_dt", ["bias"], true],
    ["ssm_a", [""], true],
    ["ssm_d", [""], true],
  ],

  async load(mixer, layer) {
    const { inner, channels, mixed } = mambaWidths(mixer);
    const { heads, kernel } = mixer;
    return {
      input: await layer.projection(layer.hiddenSize, [["ssm_in", mixed]]),
      conv: await loadConv(layer, "ssm_conv1d", channels, kernel),
      dtBias: await layer.vector("ssm_dt", heads, "bias"),
      a: await layer.decays("ssm_a", heads),
      d: await layer.vector("ssm_d", heads, ""),
      norm: layer.has("ssm_norm") ? await layer.vector("ssm_norm", inner) : undefined,
      output: await layer.projection(inner, [["ssm_out", layer.hiddenSize]]),
    };
  },

  buffers(mixer, { maxRows, elemBytes }) {
    const { inner, channels, mixed } = mambaWidths(mixer);
    return {
      mixed: maxRows * mixed * 4,
      convolved: maxRows * channels * 4,
      recurred: maxRows * inner * 4,
      attended: maxRows * inner * elemBytes,
      scratch: mambaScratchBytes(mixer, maxRows),
    };
  },

  async ops(mixer, weights, context) {
    const { inner, channels, mixed } = mambaWidths(mixer);
    const sizes = { channels, kernel: mixer.kernel, stride: mixed, offset: inner };
    return [
      ...(await context.project(weights.input, context.normed, context.buffer("mixed"), mixed, "f32")),
      await convolveOp(context, weights.conv, sizes),
      ...(await recurOps(mixer, weights, context)),
      ...(await context.output(weights.output, context.buffer("attended"))),
    ];
  },
};

function recurOps(
  mixer: MambaMixer,
  { dtBias, a, d, norm }: MambaWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { kernels, phase, shape } = context;
  return mambaOps(kernels, context.types(), {
    ...{ ...mixer, phase, dtBias, a, d, ...(norm && { norm }), eps: shape.normEps },
    ...{ mixed: context.buffer("mixed"), convolved: context.buffer("convolved") },
    ...{ y: context.buffer("recurred"), out: context.buffer("attended"), scratch: context.buffer("scratch") },
    ...{ ...context.state, stateOffset: mambaState(mixer).convFloats },
  });
}

export interface MambaInput extends MambaDims {
  label?: string;
  phase: "prefill" | "decode";
  /** f32 [rows, inner + channels + heads]: z, what the convolution reads, dt. */
  mixed: GPUBuffer;
  /** f32 [rows, channels]: X, B and C after convolution, bias and silu. */
  convolved: GPUBuffer;
  /** f32 [slots][stateStride]: a slot holds the matrices [heads][stateSize][headDim] from `stateOffset` on. */
  state: GPUBuffer;
  /** Floats. */
  stateStride: number;
  /** Floats. */
  stateOffset: number;
  /** f32 [heads]. */
  dtBias: GPUBuffer;
  /** f32 [heads]: -exp(A_log). */
  a: GPUBuffer;
  /** f32 [heads]. */
  d: GPUBuffer;
  /** f32 [inner]. Absent: gated, not normed. */
  norm?: GPUBuffer;
  eps: number;
  /** f32 [rows, inner], between the ops. */
  y: GPUBuffer;
  /** elem [rows, inner]. */
  out: GPUBuffer;
  /** prefill: at least `mambaScratchBytes(...)`, shared by all layers. */
  scratch?: GPUBuffer;
}

/** Rows of a chunk of the prefill form. */
const CHUNK_ROWS = 64;

/** Rows of one workgroup of mamba-chunk (SPAN there), and entries of B of one of mamba-states. */
const SPAN = 16;

/** Entries p of a workgroup at most. */
const MAX_TILE = 64;

const WORKGROUP = 64;

/** Of a workgroup. */
const MAX_INVOCATIONS = 256;

/** Bytes of the scratch buffer of prefill steps of at most `maxRows` rows. */
export function mambaScratchBytes(shape: MambaDims, maxRows: number): number {
  return Math.ceil(maxRows / CHUNK_ROWS) * recordFloats(shape) * 4;
}

/** One chunk's part of the scratch, as shaders/lib/mamba.wgsl lays it out. */
function recordFloats(shape: MambaDims): number {
  const floats = shape.heads * CHUNK_ROWS * (CHUNK_ROWS + 3) + mambaWidths(shape).matrixFloats;
  return Math.ceil(floats / 4) * 4;
}

/** The ops from the convolution's output to the input of the output projection: five in prefill, two in decode. */
export async function mambaOps(kernels: Kernels, types: KernelTypes, input: MambaInput): Promise<Op[]> {
  checkInput(input);
  const layer: Layer = { kernels, types, input, op: opBuffer(kernels.gpu.device, input) };
  if (input.phase === "decode") return [await stepOp(layer), await gateOp(layer)];
  const { scratch } = input;
  assert(scratch, "mamba: prefill without a scratch buffer");
  return [
    await decayOp(layer, scratch),
    await scoresOp(layer, scratch),
    await statesOp(layer, scratch),
    await chunkOp(layer, scratch),
    await gateOp(layer),
  ];
}

/** What the ops of one layer share. */
interface Layer {
  kernels: Kernels;
  types: KernelTypes;
  input: MambaInput;
  op: GPUBuffer;
}

function checkInput(input: MambaInput): void {
  const { heads, headDim, groups, stateSize, stateStride, stateOffset } = input;
  for (const [name, value] of Object.entries({ heads, headDim, groups, stateSize }))
    assert(Number.isInteger(value) && value > 0, `mamba: ${name} is ${value}, not a positive integer`);
  assert(heads % groups === 0, `mamba: ${heads} heads do not fall into ${groups} groups`);
  const end = stateOffset + mambaWidths(input).matrixFloats;
  assert(end <= stateStride, `mamba: the state ends at float ${end}, past its slot of ${stateStride}`);
}

function opBuffer(device: GPUDevice, input: MambaInput): GPUBuffer {
  const { heads, headDim, groups, stateSize, stateStride, stateOffset, eps } = input;
  const { channels, mixed } = mambaWidths(input);
  const sizes = [heads, headDim, groups, stateSize, mixed, channels, stateStride, stateOffset];
  const words = new Uint32Array([...sizes, recordFloats(input), 0]);
  new Float32Array(words.buffer)[words.length - 1] = eps;
  return uniformBuffer(device, words, "mamba op");
}

/** Entries p of a workgroup: a power of two from 8 on. */
function tileWidth(headDim: number): number {
  return Math.min(MAX_TILE, 2 ** Math.max(3, Math.ceil(Math.log2(headDim))));
}

/** Workgroups for all heads, `tileWidth` entries p in each. */
function headTiles({ heads, headDim }: MambaDims): number {
  return heads * Math.ceil(headDim / tileWidth(headDim));
}

/**
 * How mamba-states and mamba-chunk cut their work: an invocation owns 4 entries p by 4 (RUNS = 1) or 16 others. A GPU
 * wants many invocations; on a software adapter a load costs far more than a multiplication.
 */
function tileOverrides(kernels: Kernels, shape: MambaDims): Record<string, number> {
  return {
    LANES: tileWidth(shape.headDim) / 4,
    RUNS: kernels.gpu.adapter.software ? 4 : 1,
    CHUNK: CHUNK_ROWS,
    ALIGNED: aligned(shape),
  };
}

/** Whether rows and states can be read in fours. */
function aligned({ headDim, stateSize }: MambaDims): number {
  return headDim % 4 === 0 && stateSize % 4 === 0 ? 1 : 0;
}

/** How the state is read and written. */
function stateLib(input: MambaInput): string {
  const { headDim, stateStride, stateOffset } = input;
  return [headDim, stateStride, stateOffset].every((size) => size % 4 === 0) ? stateFours : stateSingles;
}

function chunks(rows: number): number {
  return Math.ceil(rows / CHUNK_ROWS);
}

async function decayOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-decay", code: decayCode, libs: [stepLib, mambaLib] };
  const pipeline = await kernels.pipeline(source, types, { WG: WORKGROUP, CHUNK: CHUNK_ROWS });
  const width = Math.ceil(input.heads / WORKGROUP);
  return {
    label: `${input.label ?? "mamba"} decay`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, input.mixed, input.dtBias, input.a, scratch]),
    grid: (step) => {
      const bytes = mambaScratchBytes(input, step.rows);
      assert(
        bytes <= scratch.size,
        `mamba: ${step.rows} rows need ${bytes} bytes of scratch, not ${scratch.size}`,
      );
      return [width, chunks(step.rows), 1];
    },
  };
}

const ROWS_LIBS = [stepLib, mambaLib, rowsLib, foursLib];

async function scoresOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-scores", code: scoresCode, libs: ROWS_LIBS };
  const pipeline = await kernels.pipeline(source, types, { CHUNK: CHUNK_ROWS, ALIGNED: aligned(input) });
  const { convolved, groups } = input;
  return {
    label: `${input.label ?? "mamba"} scores`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, convolved, scratch]),
    grid: (step) => [CHUNK_ROWS / 4, chunks(step.rows), groups],
  };
}

async function statesOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-states", code: statesCode, libs: [...ROWS_LIBS, stateLib(input)] };
  const pipeline = await kernels.pipeline(source, types, tileOverrides(kernels, input));
  const { convolved, state } = input;
  const tiles = headTiles(input);
  return {
    label: `${input.label ?? "mamba"} states`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, convolved, state, scratch]),
    grid: () => [tiles, Math.ceil(input.stateSize / SPAN), 1],
  };
}

async function chunkOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-chunk", code: chunkCode, libs: ROWS_LIBS };
  const pipeline = await kernels.pipeline(source, types, tileOverrides(kernels, input));
  const { convolved, y } = input;
  const tiles = headTiles(input);
  return {
    label: `${input.label ?? "mamba"} chunk`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, convolved, scratch, scratch, y]),
    grid: (step) => [tiles, Math.ceil(step.rows / SPAN), 1],
  };
}

async function stepOp({ kernels, types, input, op }: Layer): Promise<Op> {
  const libs = [stepLib, mambaLib, rowsLib, stateLib(input)];
  const LANES = tileWidth(input.headDim) / 4;
  const WG = LANES * stepParts(kernels, LANES, input.stateSize);
  const pipeline = await kernels.pipeline({ name: "mamba-step", code: stepCode, libs }, types, { WG, LANES });
  const { mixed, convolved, state, dtBias, a, y } = input;
  const tiles = headTiles(input);
  return {
    label: `${input.label ?? "mamba"} step`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, mixed, state, dtBias, a, y]),
    grid: (step) => [tiles, step.rows, 1],
  };
}

/** Invocations that share entries p: a GPU needs many loads under way at once, a software adapter few barriers. */
function stepParts(kernels: Kernels, LANES: number, stateSize: number): number {
  if (kernels.gpu.adapter.software) return 1;
  let parts = 1;
  while (2 * parts * LANES <= MAX_INVOCATIONS && 4 * parts < stateSize) parts *= 2;
  return parts;
}

async function gateOp({ kernels, types, input, op }: Layer): Promise<Op> {
  const { mixed, convolved, d, norm, y, out, heads, headDim, groups } = input;
  const { lib, subgroups } = reduceFragment(kernels);
  const columns = aligned(input) && heads % 4 === 0 ? 4 : 1; // then all rows start at multiples of 4
  const libs = [stepLib, bounded, mambaLib, columns === 4 ? gateFours : gateSingles, lib];
  const source = { name: "mamba-gate", code: gateCode, libs, subgroups };
  const pipeline = await kernels.pipeline(source, types, {
    WG: gateInvocations((heads * headDim) / groups / columns),
    HEAD_SPANS: headDim / columns,
    NORM: norm ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const absent = d; // stands at the binding that NORM leaves unread
  return {
    label: `${input.label ?? "mamba"} gate`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, mixed, convolved, d, norm ?? absent, y, out]),
    grid: (step) => [groups, step.rows, 1],
  };
}

/** @param spans what a row's group has to share out; nothing but the row decides, so its sums never depend on its batch */
function gateInvocations(spans: number): number {
  return spans <= 256 ? 64 : spans <= 1024 ? 128 : MAX_INVOCATIONS;
}
