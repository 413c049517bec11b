/**
 * What makes two models the same for stored keys and values: every tensor that is read (its name, type, dimensions and
 * bytes), the whole shape that programs are built from, and the runner's options. What does not belong is left out by
 * name, so that a field added later is part of the fingerprint without anyone remembering it. Two results that differ by
 * rounding alone count as the same, whatever the GPU, its subgroups and the sizes of chunks.
 */
import { assert } from "../base.ts";
import type { TensorInfo } from "../load/model-file.ts";
import type { RunnerOptions } from "../model/runner.ts";
import type { ModelShape } from "../shape/shape.ts";
import type { OnPiece } from "../model/tensor-loader.ts";
import { checksum } from "../tier/record/checksum.ts";
import { bytesToHex, fingerprintOf, type Key } from "../tier/record/keys.ts";

/** To be raised when the kernels, or the host's part of their work, compute something else from the same model. */
export const NUMERICS_VERSION = 3;

/** A tensor without its place in the file: shards and alignment change nothing. */
type TensorFacts = Omit<TensorInfo, "offset" | "shard">;

interface ReadTensor {
  facts: TensorFacts;
  /** Checksums of its pieces, in order. */
  sums: string[];
}

/** Gathers checksums of tensor pieces as they pass on their way to the GPU; pieces are the same for every source. */
export class WeightsFingerprint {
  private readonly tensors = new Map<string, ReadTensor>();

  readonly onPiece: OnPiece = ({ offset: _offset, shard: _shard, ...facts }, piece) => {
    const read = this.tensors.get(facts.name) ?? { facts, sums: [] };
    this.tensors.set(facts.name, read);
    read.sums.push(bytesToHex(checksum(piece)));
  };

  /** The file is read from its start again. */
  restart(): void {
    this.tensors.clear();
  }

  /** Of the weights alone: for what depends on no option, such as which experts are needed. */
  ofWeights(): Key {
    return fingerprintOf({ weights: canonical(this.sorted()), shape: "", options: "", numerics: 0 });
  }

  fingerprint(shape: ModelShape, options: RunnerOptions, numerics = NUMERICS_VERSION): Key {
    const { name: _name, ...computed } = shape;
    return fingerprintOf({
      weights: canonical(this.sorted()),
      shape: canonical(computed),
      options: canonical(computingOptions(options)),
      numerics,
    });
  }

  private sorted(): ReadTensor[] {
    return [...this.tensors.values()].sort((a, b) => (a.facts.name < b.facts.name ? -1 : 1));
  }
}

/** The options without those that decide only how much is done at once and how much memory it takes. */
function computingOptions(options: RunnerOptions): Partial<RunnerOptions> {
  const {
    chunkTokens: _chunk,
    seats: _seats,
    snapshots: _snapshots,
    memoryBytes: _memory,
    ...rest
  } = options;
  const {
    poolTokens: _tokens,
    poolMayBeLess: _less,
    poolStartTokens: _start,
    stateStartSlots: _stateStart,
    poolBytes: _bytes,
    tables: _tables,
    expertMemory: _expertMemory,
    expertRamBytes: _expertRam,
    expertPolicy: _expertPolicy,
    expertAblation: _expertAblation,
    readBackMs: _readBack,
    ...computing
  } = rest;
  return computing;
}

/**
 * Plain data as text that differs wherever the data differ: keys in order, numbers such as NaN, Infinity and -0 as
 * themselves (JSON would write null and 0), and a missing value as one that is undefined. What is not plain data fails.
 */
export function canonical(value: unknown): string {
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : String(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "boolean" || value === null) return String(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (ArrayBuffer.isView(value)) return canonical(Array.from(value as Float64Array));
  assert(
    isPlain(value),
    `a fingerprint is made of plain data, not of ${Object.prototype.toString.call(value)}`,
  );
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  const fields = entries.map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`);
  return `{${fields.sort().join()}}`;
}

function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}
