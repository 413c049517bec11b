/**
 * The matrices of experts off the GPU: read from the model's file one at a time, each arranged as it lies in a slot, and the last
 * ones kept in RAM within a budget. A read that fails is tried again a few times. It knows no device.
 */
import { onAbort, unlessAborted } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import type { ModelFile, TensorInfo } from "../../load/model-file.ts";
import { packed } from "../matrix/panels.ts";
import { placeOf } from "./matrices.ts";
import type { ExpertPlan, StoredMatrix } from "./plan.ts";

/** Bytes of experts in RAM where nothing else is asked for. */
export const EXPERT_RAM_BYTES = 2 ** 30;

/** Attempts at one matrix, and how long is waited before the second; before each further one twice as long. */
const ATTEMPTS = 4;
const RETRY_MS = 50;

/** An attempt that takes longer has failed. */
const ATTEMPT_MS = 30_000;

/** A matrix as it lies in a slot. */
type Words = Uint32Array<ArrayBuffer>;

export interface StoreStats {
  /** Bytes that came from the file, and that were still in RAM. */
  fileBytes: number;
  ramBytes: number;
  retries: number;
}

export class ExpertStore {
  readonly stats: StoreStats = { fileBytes: 0, ramBytes: 0, retries: 0 };
  /** Bytes in RAM. */
  keptBytes = 0;
  private readonly file: Pick<ModelFile, "readTensor">;
  private readonly plan: ExpertPlan;
  readonly mostBytes: number;
  /** Least recently used first. */
  private readonly kept = new Map<number, Words>();
  private readonly stop = new AbortController();

  /** @param mostBytes budget in RAM */
  constructor(file: Pick<ModelFile, "readTensor">, plan: ExpertPlan, mostBytes: number) {
    this.file = file;
    this.plan = plan;
    this.mostBytes = mostBytes;
  }

  /** Whether it is in RAM. */
  has(layer: number, expert: number, matrix: number): boolean {
    return this.kept.has(this.keyOf(layer, expert, matrix));
  }

  private keyOf(layer: number, expert: number, matrix: number): number {
    return (layer * this.plan.experts + expert) * 3 + matrix; // no expert has more than three
  }

  /** @throws TidepoolError `source` naming the tensor if the file cannot be read, `aborted` after `close` */
  async words(layer: number, expert: number, matrix: number): Promise<Words> {
    const { experts, layers } = this.plan;
    if (this.stop.signal.aborted) throw closedError();
    const stored = layers[layer]?.matrices[matrix] as StoredMatrix;
    const key = this.keyOf(layer, expert, matrix);
    const known = this.kept.get(key);
    if (known) {
      this.stats.ramBytes += known.byteLength;
      this.keep(key, known);
      return known;
    }
    const { format, columns, rows } = stored;
    const bytes = await this.read(placeOf(stored.tensors, expert, experts), expert);
    const words = packed(format, columns, rows, bytes);
    this.stats.fileBytes += bytes.byteLength;
    this.keep(key, words);
    return words;
  }

  /** Ends reads, and those that wait to be tried again. */
  close(): void {
    this.stop.abort();
    this.kept.clear();
    this.keptBytes = 0;
  }

  private async read(part: TensorInfo, expert: number): Promise<Uint8Array> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.readInTime(part);
      } catch (error) {
        if (this.stop.signal.aborted) throw closedError();
        if (attempt === ATTEMPTS) throw unreadable(part, expert, error);
        this.stats.retries++;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS * 2 ** (attempt - 1)));
        if (this.stop.signal.aborted) throw closedError();
      }
    }
  }

  private async readInTime(part: TensorInfo): Promise<Uint8Array> {
    const attempt = new AbortController();
    const { signal } = attempt;
    const late = (): void => attempt.abort(new Error(`no answer in ${ATTEMPT_MS / 1000} s`));
    const timer = setTimeout(late, ATTEMPT_MS);
    const stopListening = onAbort(this.stop.signal, () => attempt.abort(closedError()));
    try {
      return await unlessAborted(this.readOnce(part, signal), signal, () => signal.reason as Error);
    } finally {
      clearTimeout(timer);
      stopListening();
    }
  }

  private async readOnce(part: TensorInfo, signal: AbortSignal): Promise<Uint8Array> {
    const bytes = new Uint8Array(part.sizeBytes);
    let at = 0;
    for await (const piece of this.file.readTensor(part, { signal })) {
      if (piece.byteLength === part.sizeBytes) return piece;
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    if (at < part.sizeBytes) throw new Error(`${at} of ${part.sizeBytes} bytes came`);
    return bytes;
  }

  private keep(key: number, words: Words): void {
    if (!this.kept.delete(key)) this.keptBytes += words.byteLength;
    this.kept.set(key, words);
    for (const [oldest, { byteLength }] of this.kept) {
      if (this.keptBytes <= this.mostBytes) break;
      this.kept.delete(oldest);
      this.keptBytes -= byteLength;
    }
  }
}

function unreadable({ name }: TensorInfo, expert: number, error: unknown): TidepoolError {
  const why = error instanceof Error ? error.message : String(error);
  const message = `expert ${expert} of ${name} could not be read in ${ATTEMPTS} attempts: ${why}`;
  return new TidepoolError("source", message, { tensor: name, expert });
}

function closedError(): TidepoolError {
  return new TidepoolError("aborted", "the model was closed while an expert was read");
}
