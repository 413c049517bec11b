/**
 * The data of one step on the GPU (group 1 of shaders/lib/step.wgsl) and the token buffer: written by the host once a
 * step, read by every op. Its sizes are fixed when the model is loaded.
 */
import { assert } from "../base.ts";
import type { Kernels, Pipeline } from "../gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_STORAGE, USAGE_UNIFORM, type StepShape } from "../gpu/op.ts";
import type { ModelShape } from "../shape/shape.ts";
import { ropeFrequencies, RopeTable } from "./op/rope.ts";

/** One token of a step. */
export interface StepRow {
  /** Index into the token buffer: a seat, or `seats` + index of a given token. */
  token: number;
  position: number;
  /** Index of its block table in this step. */
  sequence: number;
}

/** Slots of the state pool that a sequence's recurrent layers read and write in a step. */
export interface StateSlots {
  /** undefined or NO_STATE at the start of a sequence: the state is zero. */
  read: number | undefined;
  /** Never the slot that is read: a request that stops late still has the state before. */
  write: number;
}

/** Stands for a state of zeros, as shaders/lib/step.wgsl has it. */
export const NO_STATE = 0xffffffff;

/** Words behind each sequence's block table: the state slots. */
const STATE_WORDS = 2;

/** Words of a row: token, position, sequence, write. */
const ROW_WORDS = 4;

/** The sections of a step's words, in their order (shaders/lib/step.wgsl). */
export interface StepSections {
  /** u32 [rows][token, position, sequence, write]. */
  rows: Uint32Array;
  /** u32 [sequences][tableStride]. */
  tables: Uint32Array;
  logitRows: readonly number[];
  /** (cos, sin) as f32: [table][rows][rot/2 of the table][2]. */
  rope: Float32Array;
}

/** Puts the sections into `into`, one behind the other. @returns how many words they take */
export function packStep(
  into: Uint32Array<ArrayBuffer>,
  { rows, tables, logitRows, rope }: StepSections,
): number {
  into.set(rows, 0);
  into.set(tables, rows.length);
  into.set(logitRows, rows.length + tables.length);
  const ropeAt = rows.length + tables.length + logitRows.length;
  new Float32Array(into.buffer, into.byteOffset).set(rope, ropeAt);
  return ropeAt + rope.length;
}

export interface StepLimits {
  blockTokens: number;
  /** Rows of a step at most. */
  maxRows: number;
  /** Sequences of a step at most, and seats. */
  seats: number;
  /** Positions of a sequence at most. */
  maxContext: number;
}

/** Tells where a step writes its rows, and is told when they are all told (gpu/pool.ts). */
export interface Places {
  placeOf(slot: number, offset: number): number;
  readonly tails: { endStep(): void } | undefined;
}

export class StepData {
  readonly limits: StepLimits;
  /** u32 [seats + maxRows]: the last token of each seat, then the given tokens of the step. */
  readonly tokens: GPUBuffer;
  /** Bytes on the GPU. */
  readonly bytes: number;
  private readonly device: GPUDevice;
  private readonly rope: RopeTable;
  private readonly places: Places;
  private readonly tableStride: number;
  private readonly buffers: { step: GPUBuffer; words: GPUBuffer };
  private readonly host: {
    rows: Uint32Array<ArrayBuffer>;
    tables: Uint32Array<ArrayBuffer>;
    rope: Float32Array<ArrayBuffer>;
    words: Uint32Array<ArrayBuffer>;
  };

  constructor(
    device: GPUDevice,
    shape: ModelShape,
    ropeDivisors: Float32Array | undefined,
    limits: StepLimits,
    places: Places,
  ) {
    const { maxRows, seats, maxContext, blockTokens } = limits;
    this.device = device;
    this.limits = limits;
    this.places = places;
    this.rope = new RopeTable(
      // A file's divisors are those of layers that see everything; local layers rotate unscaled.
      shape.ropeTables.map((spec, table) =>
        ropeFrequencies(ropeDivisors && table === 0 ? { ...spec, divisors: ropeDivisors } : spec),
      ),
    );
    this.tableStride = Math.ceil(maxContext / blockTokens) + STATE_WORDS;
    const rows = new Uint32Array(ROW_WORDS * maxRows);
    const tables = new Uint32Array(seats * this.tableStride);
    const rope = new Float32Array(this.rope.size(maxRows));
    const words = new Uint32Array(rows.length + tables.length + maxRows + rope.length);
    this.host = { rows, tables, rope, words };
    const make = (label: string, bytes: number, usage = USAGE_STORAGE) =>
      device.createBuffer({ label, size: Math.max(16, bytes), usage: usage | USAGE_COPY_DST });
    this.tokens = make("tokens", 4 * (seats + maxRows));
    this.buffers = {
      step: make("step", 16, USAGE_UNIFORM),
      words: make("step words", words.byteLength),
    };
    this.bytes = [this.tokens, ...Object.values(this.buffers)].reduce((sum, buffer) => sum + buffer.size, 0);
  }

  /** The bind group of the step's data, for any pipeline that reads it. */
  bind(kernels: Kernels, pipeline: Pipeline): GPUBindGroup {
    return kernels.bind(pipeline, 1, [this.buffers.step, this.buffers.words]);
  }

  /**
   * Writes a step, ordered after the steps submitted before.
   * @param tables one block table a sequence
   * @param given tokens that rows refer to behind the seats
   * @param states one entry a sequence, for models with recurrent layers
   */
  write(
    rows: readonly StepRow[],
    tables: readonly (readonly number[])[],
    logitRows: readonly number[],
    given: readonly number[] = [],
    states: readonly StateSlots[] = [],
  ): StepShape {
    const { maxRows, seats, maxContext } = this.limits;
    const maxPosition = rows.reduce((max, row) => Math.max(max, row.position), 0);
    assert(rows.length > 0 && rows.length <= maxRows, `${rows.length} rows, at most ${maxRows}`);
    assert(
      tables.length <= seats && given.length <= maxRows,
      "more sequences or tokens than there is room for",
    );
    assert(maxPosition < maxContext, `position ${maxPosition} is outside the context of ${maxContext}`);
    this.fill(rows, tables, states);
    this.send(rows.length, tables.length, logitRows, given);
    return {
      rows: rows.length,
      sequences: tables.length,
      logitRows: logitRows.length,
      maxContext: maxPosition + 1,
    };
  }

  /** Writes a step of whole texts, one behind the other, which need no blocks. Their last rows are the logit rows. */
  writeTexts(texts: readonly (readonly number[])[]): StepShape {
    const { maxRows, seats } = this.limits;
    const given = texts.flat();
    assert(given.length <= maxRows, `${given.length} rows, at most ${maxRows}`);
    assert(
      texts.every(({ length }) => length > 0),
      "a text without tokens",
    );
    const positions = texts.flatMap((text) => [...text.keys()]);
    const sequences = texts.flatMap((text, index) => text.map(() => index));
    positions.forEach((position, row) =>
      this.host.rows.set([seats + row, position, sequences[row] as number, 0], ROW_WORDS * row),
    );
    this.rope.fill(positions, this.host.rope);
    let end = 0;
    const lastRows = texts.map(({ length }) => (end += length) - 1);
    this.send(given.length, 0, lastRows, given);
    const longest = Math.max(...texts.map(({ length }) => length));
    return { rows: given.length, sequences: texts.length, logitRows: texts.length, maxContext: longest };
  }

  /** Sends the rows, tables and turns that the host has filled in. */
  private send(rows: number, tables: number, logitRows: readonly number[], given: readonly number[]): void {
    const { host, buffers, tableStride } = this;
    const { queue } = this.device;
    queue.writeBuffer(buffers.step, 0, Uint32Array.of(rows, tables, tableStride, logitRows.length));
    const words = packStep(host.words, {
      rows: host.rows.subarray(0, ROW_WORDS * rows),
      tables: host.tables.subarray(0, tables * tableStride),
      logitRows,
      rope: host.rope.subarray(0, this.rope.size(rows)),
    });
    queue.writeBuffer(buffers.words, 0, host.words, 0, words);
    const { seats } = this.limits;
    if (given.length > 0) queue.writeBuffer(this.tokens, 4 * seats, Uint32Array.from(given));
  }

  destroy(): void {
    for (const buffer of [this.tokens, ...Object.values(this.buffers)]) buffer.destroy();
  }

  private fill(
    rows: readonly StepRow[],
    tables: readonly (readonly number[])[],
    states: readonly StateSlots[],
  ): void {
    const { host, tableStride } = this;
    const { blockTokens } = this.limits;
    const blocks = tableStride - STATE_WORDS;
    tables.forEach((table, sequence) => host.tables.set(table.slice(0, blocks), sequence * tableStride));
    states.forEach(({ read, write }, sequence) =>
      host.tables.set([read ?? NO_STATE, write], sequence * tableStride + blocks),
    );
    rows.forEach(({ token, position, sequence }, index) => {
      const slot = tables[sequence]?.[Math.floor(position / blockTokens)];
      assert(slot !== undefined, `position ${position} has no block`);
      const place = this.places.placeOf(slot, position % blockTokens);
      host.rows.set([token, position, sequence, place], ROW_WORDS * index);
    });
    this.places.tails?.endStep();
    this.rope.fill(
      rows.map((row) => row.position),
      host.rope,
    );
  }
}
