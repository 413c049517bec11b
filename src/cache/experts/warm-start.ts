/**
 * What is kept of an expert cache for its next start: the experts that were needed, the most needed first, four bytes each. Bytes
 * that do not fit are none, never an error. It keeps nothing itself, and does not know whose model it was: the keeper does.
 */
import type { ExpertCacheShape, ExpertId } from "./entry.ts";

/** Experts that are kept, at most. */
export const MAX_WARM_EXPERTS = 2 ** 12;

type WarmShape = Pick<ExpertCacheShape, "layers" | "experts">;

export function writeWarmStart({ experts }: WarmShape, needed: readonly ExpertId[]): Uint8Array<ArrayBuffer> {
  const kept = needed.slice(0, MAX_WARM_EXPERTS);
  const bytes = new Uint8Array(4 * kept.length);
  const view = new DataView(bytes.buffer);
  kept.forEach(({ layer, expert }, i) => view.setUint32(4 * i, layer * experts + expert, true));
  return bytes;
}

/** The experts that were needed, the most needed first; undefined if the bytes are no such list. */
export function readWarmStart({ layers, experts }: WarmShape, bytes: Uint8Array): ExpertId[] | undefined {
  const count = bytes.length / 4;
  if (!Number.isInteger(count) || count > MAX_WARM_EXPERTS) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ids = Array.from({ length: count }, (_, i) => view.getUint32(4 * i, true));
  if (ids.some((id) => id >= layers * experts) || new Set(ids).size < count) return undefined;
  return ids.map((id) => ({ layer: Math.floor(id / experts), expert: id % experts }));
}
