/**
 * What a model takes on the GPU, known before anything is made there: weights, KV pool at first and at most, recurrent
 * states, workspace; against what the options allow. It makes no buffers and asks no device: WebGPU does not tell how
 * much memory there is, and the answer to that is an out-of-memory error in time (runner.ts).
 */
import { inFile, TidepoolError } from "../errors.ts";
import { MAX_BINDING_BYTES } from "../gpu/device.ts";
import type { Elem } from "../gpu/kernel.ts";
import { packedBits, type KvDtype } from "../gpu/packed.ts";
import { blockBytes, maxSlots } from "../gpu/pool.ts";
import { maxStateSlots, stateBytes } from "../gpu/state-pool.ts";
import type { ModelFile, TensorInfo } from "../load/model-file.ts";
import type { ModelShape } from "../shape/shape.ts";
import type { ExpertAblation } from "../cache/experts/expert-cache.ts";
import type { ExpertPolicyName } from "../cache/experts/policy.ts";
import { tableBytes } from "./experts/arena.ts";
import { checkpointBytes } from "./experts/checkpoint.ts";
import { predictorBytes } from "./experts/predictor.ts";
import { copyTableBytes } from "./experts/copies.ts";
import { expertsOf, planSlots, type ExpertPlan, type ModelExperts } from "./experts/plan.ts";
import { namesIn, usedTensors } from "./arch/tensor-names.ts";
import { kvLayers, stateLayers } from "./mixer/kinds.ts";
import { PER_LAYER_TABLE, perLayerNumbers } from "./residual/per-layer.ts";
import { rowTableBytes } from "./matrix/row-table.ts";
import { contextWithin, keptRowBytes, rowsWithin, workspaceBytes } from "./workspace.ts";

/** What decides how much memory a model takes. */
export interface MemoryOptions {
  dtype: Elem;
  kvDtype: KvDtype;
  /** If `kvDtype` has fewer than 16 bits: the type of keys and values whose block is not complete. Default: `dtype`. */
  tailDtype?: Elem;
  /** 16, 32 or 64. */
  blockTokens: number;
  /** Rows of a prefill step at most. */
  chunkTokens: number;
  /** Requests that run at once. */
  seats: number;
  /** KV positions that the pool may grow to; rounded up to whole blocks. Default: `usualPoolTokens`. */
  poolTokens?: number;
  /** Whether the pool may stay smaller than `poolTokens` where `memoryBytes` asks for it. Default: that is an error. */
  poolMayBeLess?: boolean;
  /** KV positions in the pool at first. Default: START_TOKENS, or `poolTokens` where that is less. */
  poolStartTokens?: number;
  /** Bytes that the pool may grow to; goes before `poolTokens`. */
  poolBytes?: number;
  /** Bytes that everything together may take. Default: no limit. */
  memoryBytes?: number;
  /**
   * Where the table of per-layer embeddings is: on the GPU, or in the model's file (in RAM while that is downloaded). Default: in
   * the file if it has more than MAX_TABLE_BYTES, or if `memoryBytes` is too little for it.
   */
  tables?: "gpu" | "file" | undefined;
  /**
   * Bytes of experts on the GPU: if they have more, each is brought when it is needed. Default: all of them, or if `memoryBytes` is
   * too little for that, what it leaves.
   */
  expertMemory?: number;
  /** Bytes of experts that are kept in RAM when not all are on the GPU. Default: EXPERT_RAM_BYTES. */
  expertRamBytes?: number;
  /**
   * Whether a decode step waits for every expert that is not on the GPU, or computes those that matter little with low-bit copies of
   * all experts, which `expertMemory` includes. Default: "exact".
   */
  experts?: "exact" | "bounded";
  /** With "bounded": of the weight of a token's experts, the share behind which one matters little. Default: 0.6. */
  unimportantAbove?: number;
  /** Which experts are evicted. Default: "promoe". */
  expertPolicy?: ExpertPolicyName;
  /** What of the expert cache is switched off, to be measured. Default: nothing. */
  expertAblation?: ExpertAblation;
  /** What a read-back is taken to cost by itself, in tests: if much, steps run more layers by guess. Default: it is measured. */
  readBackMs?: number;
  /** Snapshots of recurrent state that the GPU holds at most, beside two states a seat. Default: what 128 MiB hold. */
  snapshots?: number;
  /** States in their pool at first. Default: those of one request and a few snapshots. */
  stateStartSlots?: number;
}

export interface MemoryPlan {
  /** As they are in the file, without tables that stay off the GPU. */
  weightBytes: number;
  /** Bytes of tables that stay off the GPU; 0: all are on it. */
  offGpuBytes: number;
  /** Slots for experts of which not all are on the GPU; `weightBytes` has these in place of the experts. */
  experts: ExpertPlan | undefined;
  kvBytesPerToken: number;
  /** Blocks of the KV pool at first and at most. */
  startBlocks: number;
  maxBlocks: number;
  /** Exact blocks beside a KV pool of packed ones at first, and bytes of them at most; 0 beside an exact pool. */
  startTails: number;
  kvTailBytes: number;
  /** Slots of the state pool at first and at most, and their bytes. */
  states: StatePlan;
  stateStartBytes: number;
  statePoolBytes: number;
  workspaceBytes: number;
  /** Everything, with the pools as they are at first, and at most. */
  startBytes: number;
  maxBytes: number;
  /** Why the pool grows less far than was asked for. */
  limited: string | undefined;
}

/** Slots of the state pool. */
export interface StatePlan {
  startSlots: number;
  maxSlots: number;
  /** Snapshots among them at most. */
  maxSnapshots: number;
}

/** KV positions of a new pool where nothing else is asked for: it grows when requests need more. */
const START_TOKENS = 2048;

/** What a pool may grow to where nothing else is asked for: so many bytes, but so many KV positions at least. */
const POOL_BYTES = 2 ** 30;
const MIN_POOL_TOKENS = 8192;

/** Logits computed in one step stay below this, unless the seats alone need more. */
const LOGITS_BYTES = 32 * 1024 * 1024;

/** Bytes of snapshots on the GPU where nothing else is asked for, and how many they are at least and at most. */
const SNAPSHOT_BYTES = 128 * 1024 * 1024;
const MIN_SNAPSHOTS = 4;
const MAX_SNAPSHOTS = 256;

/** Snapshots that a new state pool has room for, beside one request. */
const START_SNAPSHOTS = 4;

/**
 * Plans a model's memory.
 * @throws TidepoolError naming the file: `out_of_memory` with the numbers, and what would fit, if `memoryBytes` or
 * `poolBytes` is less than the model needs; and as `checkSeats`.
 */
export function planMemory(file: ModelFile, shape: ModelShape, options: MemoryOptions): MemoryPlan {
  try {
    checkSeats(shape, options);
    return planParts(file, shape, options);
  } catch (error) {
    throw inFile(file.name, error);
  }
}

function planParts(file: ModelFile, shape: ModelShape, options: MemoryOptions): MemoryPlan {
  const { blockTokens, kvDtype } = options;
  const perBlock = blockBytes(kvLayers(shape), blockTokens, kvDtype);
  const { blocks: wanted, limited } = wantedBlocks(shape, options, perBlock);
  const tensors = usedTensors(file, shape);
  const table = rowTableOf(file, shape);
  const tableBytes = table?.sizeBytes ?? 0;
  const stateSlotBytes = stateBytes(stateLayers(shape));
  const states = planStates(shape, options, tailRoom(shape, options));
  const statePoolBytes = stateSlotBytes * states.maxSlots;
  const stateStartBytes = stateSlotBytes * states.startSlots;
  const maxRows = stepRows(shape, options);
  const tails = planTails(shape, options, states);
  const experts = expertsOf(namesIn(file, shape), shape);
  const needsWith = (offGpuBytes: number, blocks: number, slots?: ExpertPlan): Needs => ({
    weightBytes: sumOf(tensors.map(({ sizeBytes }) => sizeBytes)) - offGpuBytes + addedBytes(slots),
    statePoolBytes,
    workspaceBytes:
      tails.kvTailBytes +
      workspaceBytes(shape, {
        ...options,
        maxRows,
        logitRows: logitRows(shape, options),
        maxContext: contextOf(shape, options, blocks),
      }) +
      (table && offGpuBytes > 0
        ? rowTableBytes(table, perLayerNumbers(shape), { maxRows, seats: options.seats })
        : 0) +
      (slots ? besideSlots(slots, shape, options) : 0),
    poolBytes: blocks * perBlock,
  });
  const isOff = isTableOffGpu(options, tableBytes, totalOf(needsWith(0, wanted)));
  const offGpuBytes = isOff ? tableBytes : 0;
  const isEncoder = shape.embedding?.isEncoder ?? false; // it does not decode
  const slots =
    experts &&
    slotsFor(experts, isEncoder ? { ...options, experts: "exact" } : options, (plan) =>
      totalOf(needsWith(offGpuBytes, Math.min(wanted, Math.ceil(MIN_POOL_TOKENS / blockTokens)), plan)),
    );
  const needs = (blocks: number) => needsWith(offGpuBytes, blocks, slots);
  const maxBlocks = fittingBlocks(elementsOf(tensors), options, wanted, needs);
  const startBlocks = startOf(options, maxBlocks);
  const { weightBytes, workspaceBytes: workspace, poolBytes } = needs(maxBlocks);
  const fixed = weightBytes + workspace;
  return {
    ...{
      weightBytes,
      offGpuBytes,
      experts: slots,
      states,
      stateStartBytes,
      statePoolBytes,
      workspaceBytes: workspace - tails.kvTailBytes,
    },
    ...{ limited, startBlocks, maxBlocks, ...tails },
    kvBytesPerToken: kvBytesPerToken(shape, options),
    startBytes: fixed + stateStartBytes + startBlocks * perBlock,
    maxBytes: fixed + statePoolBytes + poolBytes,
  };
}

/** The type of exact keys and values. */
export function exactDtype({
  dtype,
  kvDtype,
  tailDtype,
}: Pick<MemoryOptions, "dtype" | "kvDtype" | "tailDtype">): Elem {
  return kvDtype === "f32" || kvDtype === "f16" ? kvDtype : (tailDtype ?? dtype);
}

/** Tails beside a packed pool: for the last block of each sequence, for all that a step may begin, and for those of snapshots. */
function planTails(
  shape: ModelShape,
  options: MemoryOptions,
  states: StatePlan,
): Pick<MemoryPlan, "startTails" | "kvTailBytes"> {
  const layers = kvLayers(shape);
  if (!packedBits(options.kvDtype) || layers.length === 0) return { startTails: 0, kvTailBytes: 0 };
  const tails = (stateSlots: number) => tailsFor(shape, options, stateSlots);
  const perTail = blockBytes(layers, options.blockTokens, exactDtype(options));
  return { startTails: tails(states.startSlots), kvTailBytes: tails(states.maxSlots) * perTail };
}

/**
 * Tails that suffice with a state pool of so many slots. In models with recurrent layers a step may be taken back behind the end of a
 * block, so that each sequence needs two.
 */
export function tailsFor(
  shape: ModelShape,
  options: Pick<MemoryOptions, "seats" | "chunkTokens" | "dtype" | "blockTokens">,
  stateSlots: number,
): number {
  const inStep = Math.ceil(stepRows(shape, options) / options.blockTokens) + 1;
  return (stateSlots > 0 ? 2 : 1) * (options.seats + 1) + inStep + stateSlots;
}

/**
 * Tails that one binding holds beyond those of running requests and steps: snapshots inside blocks at most. Infinity if the pool is
 * exact.
 * @throws TidepoolError `out_of_memory` if those of running requests and steps do not fit.
 */
export function tailRoom(
  shape: ModelShape,
  options: Pick<MemoryOptions, "dtype" | "kvDtype" | "tailDtype" | "blockTokens" | "chunkTokens" | "seats">,
): number {
  const layers = kvLayers(shape);
  if (!packedBits(options.kvDtype) || layers.length === 0) return Infinity;
  const { seats, chunkTokens, blockTokens } = options;
  const needed = tailsFor(shape, options, stateLayers(shape).length === 0 ? 0 : runningSlots(seats));
  const most = maxSlots(layers, blockTokens, exactDtype(options));
  if (needed <= most) return most - needed;
  const message = `${needed} blocks of exact newest tokens do not fit beside a KV pool in ${options.kvDtype}: at most ${most} of ${blockTokens} tokens; use fewer requests at once than ${seats}, or chunkTokens below ${chunkTokens}`;
  throw new TidepoolError("out_of_memory", message, { needed, most });
}

/** Bytes of what steps need beside slots for experts: checkpoints and predictions. */
function besideSlots(
  { layers, experts, chosen }: ExpertPlan,
  shape: ModelShape,
  { seats, dtype }: MemoryOptions,
): number {
  const predictor = predictorBytes({ shape, experts, chosen, seats });
  return checkpointBytes(layers.length, seats, keptRowBytes(shape, dtype)) + predictor;
}

/** Bytes that slots for experts take more than the experts in the file: less than 0. */
function addedBytes(slots: ExpertPlan | undefined): number {
  if (!slots) return 0;
  const tensors = slots.layers.flatMap(({ matrices }) => matrices.flatMap((matrix) => matrix.tensors));
  const copies = slots.copyBytes > 0 ? slots.copyBytes + copyTableBytes(slots) : 0;
  return slots.bytes + copies + tableBytes(slots) - sumOf(tensors.map(({ sizeBytes }) => sizeBytes));
}

/**
 * Slots for experts, as many as the options allow; undefined if all may be on the GPU.
 * @param totalWith bytes of everything with these slots, with a pool of the least size that is usual
 */
function slotsFor(
  experts: ModelExperts,
  { expertMemory, memoryBytes, experts: mode }: MemoryOptions,
  totalWith: (slots?: ExpertPlan) => number,
): ExpertPlan | undefined {
  const copyBytes = mode === "bounded" ? experts.copyBytes : 0;
  const leastBytes = experts.leastBytes + copyBytes;
  const least = planSlots(experts, leastBytes, copyBytes);
  const left =
    memoryBytes === undefined || totalWith() <= memoryBytes
      ? Infinity
      : memoryBytes - (totalWith(least) - leastBytes);
  const most = expertMemory ?? Math.max(leastBytes, left);
  return most < experts.bytes ? planSlots(experts, most, copyBytes) : undefined;
}

/**
 * Tables of more bytes stay off the GPU where nothing is said: WebGPU does not tell how much memory the device has, and a step
 * reads a few kilobytes of them a token.
 */
const MAX_TABLE_BYTES = 512 * 1024 * 1024;

function isTableOffGpu(
  { tables, memoryBytes = Infinity }: MemoryOptions,
  tableBytes: number,
  wholeBytes: number,
): boolean {
  if (tableBytes === 0 || tables === "gpu") return false;
  return tables === "file" || tableBytes > MAX_TABLE_BYTES || wholeBytes > memoryBytes;
}

/** The table of which a step needs a row a token, beside the embedding. */
function rowTableOf(file: ModelFile, shape: ModelShape): TensorInfo | undefined {
  return shape.perLayerWidth ? namesIn(file, shape).model(PER_LAYER_TABLE) : undefined;
}

/** Bytes of a token's keys and values in all layers; 0 in a model without attention. */
export function kvBytesPerToken(
  shape: ModelShape,
  { blockTokens, kvDtype }: Pick<MemoryOptions, "blockTokens" | "kvDtype">,
): number {
  return blockBytes(kvLayers(shape), blockTokens, kvDtype) / blockTokens;
}

/**
 * Plans the state pool: at most two slots for each seat, used in turns, two more for scoring, and the snapshots; at first
 * what one request needs and a few snapshots. No slots in models without recurrent layers.
 * @param room snapshots at most, whatever is asked for
 */
export function planStates(
  shape: ModelShape,
  options: Pick<MemoryOptions, "seats" | "snapshots" | "stateStartSlots">,
  room = Infinity,
): StatePlan {
  if (stateLayers(shape).length === 0) return { startSlots: 0, maxSlots: 0, maxSnapshots: 0 };
  const maxSnapshots = Math.min(room, snapshotSlots(shape, options));
  const maxSlots = runningSlots(options.seats) + maxSnapshots;
  const usual = 2 + Math.min(START_SNAPSHOTS, maxSnapshots);
  return { startSlots: Math.min(maxSlots, options.stateStartSlots ?? usual), maxSlots, maxSnapshots };
}

/**
 * Checks that every seat can have its states: those of one layer must lie in one binding.
 * @throws TidepoolError `out_of_memory` if fewer seats could have them, `unsupported` if not even one could.
 */
export function checkSeats(shape: ModelShape, { seats }: Pick<MemoryOptions, "seats">): void {
  const layers = stateLayers(shape);
  const [slots, most] = [runningSlots(seats), maxStateSlots(layers)];
  if (layers.length === 0 || slots <= most) return;
  if (most < runningSlots(1)) throw stateTooLarge(Math.max(...layers.map(({ floats }) => 4 * floats)));
  const message = `${slots} states do not fit: at most ${most} of this model's size; use fewer requests at once`;
  throw new TidepoolError("out_of_memory", message, { slots, most });
}

function stateTooLarge(bytes: number): TidepoolError {
  const message = `the recurrent state of a layer takes ${bytesText(bytes)} for each sequence: the ${runningSlots(1)} that one request needs must lie in one binding of ${bytesText(MAX_BINDING_BYTES)}`;
  return new TidepoolError("unsupported", message, { stateBytes: bytes });
}

/** States of all seats, and of what is scored. */
function runningSlots(seats: number): number {
  return 2 * (seats + 1);
}

/** Snapshots that fit: as asked, or as many as the default's bytes hold. 0 in models without recurrent layers. */
function snapshotSlots(
  shape: ModelShape,
  { seats, snapshots }: Pick<MemoryOptions, "seats" | "snapshots">,
): number {
  const layers = stateLayers(shape);
  if (layers.length === 0) return 0;
  const room = maxStateSlots(layers) - runningSlots(seats);
  const wanted = snapshots ?? Math.floor(SNAPSHOT_BYTES / stateBytes(layers));
  return Math.max(0, Math.min(room, MAX_SNAPSHOTS, Math.max(wanted, snapshots ?? MIN_SNAPSHOTS)));
}

/** Rows that the logits buffer holds: one a seat at least. */
export function logitRows(
  shape: ModelShape,
  { seats, chunkTokens }: Pick<MemoryOptions, "seats" | "chunkTokens">,
): number {
  if (shape.embedding?.isEncoder) return 0;
  const fit = Math.floor(LOGITS_BYTES / (4 * shape.vocabSize));
  return Math.max(seats, Math.min(chunkTokens, fit));
}

/** Rows of a step at most. An encoder computes a whole text at once. */
export function stepRows(
  shape: ModelShape,
  { seats, chunkTokens, dtype }: Pick<MemoryOptions, "seats" | "chunkTokens" | "dtype">,
): number {
  if (!shape.embedding?.isEncoder) return Math.max(chunkTokens, seats);
  return Math.min(chunkTokens, rowsWithin(shape, dtype, MAX_BINDING_BYTES));
}

/** Positions of one sequence at most, in whole blocks. */
export function contextOf(
  shape: ModelShape,
  { blockTokens }: Pick<MemoryOptions, "blockTokens">,
  blocks: number,
): number {
  return Math.min(Math.ceil(shape.contextTokens / blockTokens), blocks) * blockTokens;
}

/** A number of bytes for people, such as "1.5 GiB". */
export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes >= 1 ? Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10)) : 0;
  const value = bytes / 1024 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${units[power]}`;
}

interface Needs {
  weightBytes: number;
  statePoolBytes: number;
  workspaceBytes: number;
  poolBytes: number;
}

/** Blocks that the options ask for, as far as one binding holds them. */
function wantedBlocks(
  shape: ModelShape,
  { blockTokens, poolTokens, poolBytes, kvDtype, seats }: MemoryOptions,
  perBlock: number,
): { blocks: number; limited: string | undefined } {
  const byTokens = poolBytes === undefined || perBlock === 0; // pure recurrent models keep no KV
  const tokens = poolTokens ?? usualPoolTokens(shape, seats, perBlock / blockTokens);
  const wanted = byTokens ? Math.ceil(tokens / blockTokens) : Math.floor(poolBytes / perBlock);
  if (wanted === 0) {
    const message = `a KV pool of ${poolBytes} bytes holds no block: one of ${blockTokens} tokens has ${perBlock} bytes`;
    throw new TidepoolError("out_of_memory", message, { poolBytes, blockBytes: perBlock });
  }
  const byKeys = maxSlots(kvLayers(shape), blockTokens, kvDtype);
  const scratch = contextWithin(shape, seats, MAX_BINDING_BYTES);
  const byScratch = scratch < shape.contextTokens ? Math.floor(scratch / blockTokens) : Infinity;
  const most = Math.min(byKeys, byScratch);
  if (wanted <= most) return { blocks: wanted, limited: undefined };
  const why =
    byScratch < byKeys
      ? "the scratch of attention, which fewer maxRequests make smaller,"
      : "the keys of a layer";
  const limited = `a KV pool of ${wanted * blockTokens} tokens was asked for and ${most * blockTokens} are the most: ${why} must lie in one binding of ${bytesText(MAX_BINDING_BYTES)}`;
  return { blocks: most, limited };
}

/** Every request may have a whole context, as far as POOL_BYTES go. */
function usualPoolTokens(shape: ModelShape, seats: number, bytesPerToken: number): number {
  const byBytes = bytesPerToken === 0 ? Infinity : Math.floor(POOL_BYTES / bytesPerToken);
  return Math.max(MIN_POOL_TOKENS, Math.min(seats * shape.contextTokens, byBytes));
}

function startOf({ blockTokens, poolStartTokens = START_TOKENS }: MemoryOptions, maxBlocks: number): number {
  return Math.min(maxBlocks, Math.ceil(poolStartTokens / blockTokens));
}

/** As many of the wanted blocks as `memoryBytes` leaves room for. */
function fittingBlocks(
  elements: number,
  options: MemoryOptions,
  wanted: number,
  needs: (blocks: number) => Needs,
): number {
  const { memoryBytes, blockTokens, poolMayBeLess } = options;
  const fits = (blocks: number) => memoryBytes === undefined || totalOf(needs(blocks)) <= memoryBytes;
  if (fits(wanted)) return wanted;
  let [low, high] = [0, wanted]; // workspace grows with the context, so that the sum is not a simple division
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle;
  }
  if (low === 0) throw tooSmall(elements, memoryBytes as number, needs(1));
  if (poolMayBeLess) return low;
  const total = totalOf(needs(wanted));
  throw new TidepoolError(
    "out_of_memory",
    `${bytesText(total)} are needed for ${list(needs(wanted))}, and memoryBytes allows ${bytesText(memoryBytes as number)}: poolTokens ${low * blockTokens} would fit`,
    { ...needs(wanted), neededBytes: total, memoryBytes, fittingPoolTokens: low * blockTokens },
  );
}

/** Not even one block fits: what is left is a smaller model. */
function tooSmall(elements: number, memoryBytes: number, needs: Needs): TidepoolError {
  const total = totalOf(needs);
  const left = memoryBytes - (total - needs.weightBytes);
  const bitsPerWeight = (8 * needs.weightBytes) / elements;
  const fitting = (8 * left) / elements;
  const advice =
    fitting >= 1
      ? `a quantisation of at most ${fitting.toFixed(1)} bits a weight would fit (this file has ${bitsPerWeight.toFixed(1)}), or fewer maxRequests and chunkTokens`
      : "a smaller model, or fewer maxRequests and chunkTokens, might fit";
  return new TidepoolError(
    "out_of_memory",
    `${bytesText(total)} are needed at least for ${list(needs)}, and memoryBytes allows ${bytesText(memoryBytes)}: ${advice}`,
    { ...needs, neededBytes: total, memoryBytes },
  );
}

/**
 * The device ran out of memory in loading.
 * @param why the device's own words
 */
export function deviceFull(plan: MemoryPlan, { blockTokens }: MemoryOptions, why: string): TidepoolError {
  const { weightBytes, stateStartBytes: statePoolBytes, workspaceBytes: workspace } = plan;
  const { startBlocks, startBytes } = plan;
  const poolBytes = startBlocks * blockTokens * plan.kvBytesPerToken;
  const parts = { weightBytes, statePoolBytes, workspaceBytes: workspace + plan.kvTailBytes, poolBytes };
  const advice =
    poolBytes > weightBytes / 4
      ? "a smaller poolStartTokens, or another quantisation, may fit"
      : "a quantisation of fewer bits, or fewer maxRequests and chunkTokens, may fit";
  return new TidepoolError(
    "out_of_memory",
    `GPU memory is not enough for the model: ${bytesText(startBytes)} are needed for ${list(parts)}; ${advice} (${why})`,
    { ...parts, neededBytes: startBytes, isDeviceFull: true },
  );
}

function list({ weightBytes, poolBytes, statePoolBytes, workspaceBytes: workspace }: Needs): string {
  const states = statePoolBytes > 0 ? `, ${bytesText(statePoolBytes)} of recurrent states` : "";
  return `${bytesText(weightBytes)} of weights, ${bytesText(poolBytes)} of KV pool${states} and ${bytesText(workspace)} of workspace`;
}

function totalOf(needs: Needs): number {
  return sumOf(Object.values(needs) as number[]);
}

function elementsOf(tensors: readonly TensorInfo[]): number {
  return sumOf(tensors.map(({ shape }) => shape.reduce((product, size) => product * size, 1)));
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, each) => sum + each, 0);
}
