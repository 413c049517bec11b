/**
 * What makes two models the same for stored keys and values: the weights' bytes, the shape, the numbers' types and the
 * block size. Chunking and the GPU are left out: they change results within rounding only.
 */
import type { ModelShape } from "../model/shape.ts";
import type { OnPiece } from "../model/weights.ts";
import type { RunnerOptions } from "../model/runner.ts";
import { checksum } from "../tier/checksum.ts";
import { bytesToHex, fingerprintOf, type Key } from "../tier/keys.ts";

/** Changes when the kernels compute something else from the same weights. */
const NUMERICS_VERSION = 1;

/** Gathers checksums of tensor pieces as they pass on their way to the GPU; pieces are the same for every source. */
export class WeightsIdentity {
  private readonly sums = new Map<string, string[]>();

  readonly onPiece: OnPiece = (tensor, piece) => {
    const sums = this.sums.get(tensor) ?? [];
    this.sums.set(tensor, sums);
    sums.push(bytesToHex(checksum(piece)));
  };

  fingerprint(shape: ModelShape, options: RunnerOptions): Key {
    const { name: _name, ...facts } = shape;
    const weights = [...this.sums].map(([tensor, sums]) => `${tensor}:${sums.join(",")}`).sort();
    return fingerprintOf({
      weights: weights.join(";"),
      shape: JSON.stringify(facts),
      dtype: options.dtype,
      kvDtype: options.kvDtype,
      blockTokens: options.blockTokens,
      numerics: NUMERICS_VERSION,
    });
  }
}
