/**
 * A program as a list of segments: the ops of a step between the places where it can stop. Without stops all segments are
 * recorded as one list. It does not know what is done at a stop, nor whether a step may wait for it.
 */
import { assert } from "../base.ts";
import type { Op, StepShape } from "./op.ts";
import type { CommandRecorder, Source } from "./recorder.ts";

/** Ops that run without a stop. */
export interface Segment {
  /** The layer that they end; -1: the embedding, before the first. */
  layer: number;
  ops: readonly Op[];
}

/** A step's ops, whole and in segments. */
export interface Program {
  segments: readonly Segment[];
  ops: readonly Op[];
}

/** A step that stands behind a layer. What was recorded so far runs with the next read, or when the step goes on. */
export interface Pause {
  layer: number;
  step: StepShape;
  /** f32 [rows, hidden size]: the layer's input, and what it adds to it. */
  hidden: Source;
  delta: Source;
  /** A buffer between the layer's ops by its name, with the bytes of a row: what the layer's last op on it left. */
  between(name: string, rowBytes: number): Source;
  /** Runs everything up to here and reads the first bytes of each source. */
  read(sources: readonly Source[]): Promise<ArrayBuffer[]>;
  /** Adds ops to the step, behind the layer. */
  run(ops: readonly Op[]): void;
}

/** What is done at a stop; the step goes on when it resolves, and fails if it rejects. */
export type StopWork = (pause: Pause) => Promise<void>;

export function programOf(segments: readonly Segment[]): Program {
  return { segments, ops: segments.flatMap(({ ops }) => ops) };
}

export interface SegmentParts {
  recorder: CommandRecorder;
  stepGroup: GPUBindGroup;
  hidden: GPUBuffer;
  delta: GPUBuffer;
  /** Bytes of a row of these. */
  rowBytes: number;
  /** The buffers between ops. */
  between: (name: string) => GPUBuffer;
}

/** Runs programs, and stops them where that is asked for. One step at a time can stand at a stop. */
export class SegmentRunner {
  private readonly parts: SegmentParts;
  private readonly stops = new Map<number, StopWork>();
  private stopped: number | undefined;

  constructor(parts: SegmentParts) {
    this.parts = parts;
  }

  /** Every step that begins from now on stops behind a layer (-1: behind the embedding); undefined: none does any more. */
  stopBehind(layer: number, work: StopWork | undefined): void {
    if (work) this.stops.set(layer, work);
    else this.stops.delete(layer);
  }

  /** Steps share their buffers: none may be written while one stands at a stop. */
  checkFree(): void {
    assert(
      this.stopped === undefined,
      `a step begins while another stands behind layer ${this.stopped ?? 0}`,
    );
  }

  /** Records a program at once if there are no stops; else resolves when the last of them is past. */
  run(program: Program, step: StepShape): Promise<void> | undefined {
    if (this.stops.size > 0) return this.runInParts(program, step);
    this.record(program.ops, step);
    return undefined;
  }

  private record(ops: readonly Op[], step: StepShape): void {
    this.parts.recorder.run(ops, this.parts.stepGroup, step);
  }

  private async runInParts({ segments }: Program, step: StepShape): Promise<void> {
    const stops = new Map(this.stops);
    try {
      for (const { layer, ops } of segments) {
        this.record(ops, step);
        const work = stops.get(layer);
        if (!work) continue;
        this.stopped = layer;
        await work(this.pauseAt(layer, step));
      }
    } catch (error) {
      this.parts.recorder.discard();
      throw error;
    } finally {
      this.stopped = undefined;
    }
  }

  private pauseAt(layer: number, step: StepShape): Pause {
    const { recorder, hidden, delta, rowBytes, between } = this.parts;
    const bytes = step.rows * rowBytes;
    return {
      ...{ layer, step, hidden: { buffer: hidden, bytes }, delta: { buffer: delta, bytes } },
      between: (name, size) => ({ buffer: between(name), bytes: step.rows * size }),
      read: (sources) => recorder.read(sources),
      run: (ops) => this.record(ops, step),
    };
  }
}
