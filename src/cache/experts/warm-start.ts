/**
 * What is kept of an expert cache for its next start: which experts were needed, the most needed first, as a few kilobytes. What
 * is read must fit the model; anything else is none, never an error. It opens no files.
 *
 *     "TIDEWARM", u32 bytes of the fingerprint, the fingerprint, u32 layers, u32 experts, u32 count,
 *     count times u32 layer * experts + expert, u32 sum of all words before (FNV-1a)
 */
import type { ExpertId } from "./entry.ts";

const MAGIC = "TIDEWARM";
const MAX_FINGERPRINT_BYTES = 256;

/** Experts that are kept, at most. */
export const MAX_WARM_EXPERTS = 2 ** 16;

/** What a kept list must fit. */
export interface WarmModel {
  fingerprint: string;
  layers: number;
  experts: number;
}

export function writeWarmStart(
  { fingerprint, layers, experts }: WarmModel,
  needed: readonly ExpertId[],
): Uint8Array<ArrayBuffer> {
  const head = new TextEncoder().encode(MAGIC);
  const name = new TextEncoder().encode(fingerprint);
  const kept = needed.slice(0, MAX_WARM_EXPERTS);
  const bytes = new Uint8Array(head.length + 4 + name.length + 4 * (4 + kept.length));
  const view = new DataView(bytes.buffer);
  bytes.set(head);
  view.setUint32(head.length, name.length, true);
  bytes.set(name, head.length + 4);
  const words = [layers, experts, kept.length, ...kept.map(({ layer, expert }) => layer * experts + expert)];
  let at = head.length + 4 + name.length;
  for (const each of words) {
    view.setUint32(at, each, true);
    at += 4;
  }
  view.setUint32(at, sumOf(bytes.subarray(0, at)), true);
  return bytes;
}

/** The experts that were needed, the most needed first; undefined if the bytes are damaged or of another model. */
export function readWarmStart(model: WarmModel, bytes: Uint8Array): ExpertId[] | undefined {
  const first = MAGIC.length + 4;
  if (bytes.length < first + 16 || bytes.length > first + MAX_FINGERPRINT_BYTES + 4 * (4 + MAX_WARM_EXPERTS))
    return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 4;
  if (view.getUint32(end, true) !== sumOf(bytes.subarray(0, end))) return undefined;
  const decoder = new TextDecoder();
  const nameBytes = view.getUint32(MAGIC.length, true);
  const isOurs =
    decoder.decode(bytes.subarray(0, MAGIC.length)) === MAGIC &&
    nameBytes <= end - first - 12 &&
    decoder.decode(bytes.subarray(first, first + nameBytes)) === model.fingerprint;
  if (!isOurs) return undefined;
  const at = first + nameBytes;
  const [layers, experts, count] = [0, 4, 8].map((offset) => view.getUint32(at + offset, true));
  const fits = layers === model.layers && experts === model.experts && at + 12 + 4 * count! === end;
  if (!fits) return undefined;
  const ids = Array.from({ length: count! }, (_, i) => view.getUint32(at + 12 + 4 * i, true));
  if (ids.some((id) => id >= model.layers * model.experts)) return undefined;
  return ids.map((id) => ({ layer: Math.floor(id / model.experts), expert: id % model.experts }));
}

function sumOf(bytes: Uint8Array): number {
  let sum = 0x811c9dc5;
  for (const byte of bytes) sum = Math.imul(sum ^ byte, 0x01000193);
  return sum >>> 0;
}
