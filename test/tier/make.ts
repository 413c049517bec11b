/** Records for tests, whose bytes follow from their key, so that a check needs no second copy. */
import { Random } from "../../src/base.ts";
import { fingerprintOf, namespaceHashOf, recordKey, rootKey, type Key } from "../../src/tier/record/keys.ts";
import { encodeRecord, type RecordDraft } from "../../src/tier/record/record.ts";

export const FINGERPRINT = fingerprintOf({ weights: "w", kvDtype: "f32", blockTokens: 4 });

/** The payload that belongs to a key. */
export function payloadOf(key: Key, bytes: number): Uint8Array {
  const random = new Random(Number.parseInt(key.slice(0, 8), 16));
  const payload = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) payload[i] = random.uint32() & 0xff;
  return payload;
}

export interface ChainOptions {
  namespace?: string;
  payloadBytes?: number;
  blockTokens?: number;
  expiresAtMs?: number;
}

/** A conversation's blocks: `count` chained drafts whose token ids follow from `seed`. */
export function chain(seed: number, count: number, options: ChainOptions = {}): RecordDraft[] {
  const { namespace = "", payloadBytes = 64, blockTokens = 4, expiresAtMs = 0 } = options;
  const drafts: RecordDraft[] = [];
  let parentKey = rootKey(FINGERPRINT, namespace);
  for (let blockIndex = 0; blockIndex < count; blockIndex++) {
    const tokens = Array.from({ length: blockTokens }, (_, i) => seed * 1000 + blockIndex * blockTokens + i);
    const key = recordKey("block", parentKey, tokens);
    const payload = payloadOf(key, payloadBytes);
    const fingerprint = FINGERPRINT;
    drafts.push({
      kind: "block",
      parentKey,
      fingerprint,
      namespace,
      blockIndex,
      tokens,
      payload,
      expiresAtMs,
      createdAtMs: 1,
    });
    parentKey = key;
  }
  return drafts;
}

export const keyOf = (draft: RecordDraft): Key => recordKey(draft.kind, draft.parentKey, draft.tokens);
export const keysOf = (drafts: readonly RecordDraft[]): Key[] => drafts.map(keyOf);
export const tokensOf = (drafts: readonly RecordDraft[]): number[] =>
  drafts.flatMap(({ tokens }) => Array.from(tokens));
export const encoded = (drafts: readonly RecordDraft[]): Uint8Array[] =>
  drafts.map((draft) => encodeRecord(draft));
export const hashOfNamespace = namespaceHashOf;
