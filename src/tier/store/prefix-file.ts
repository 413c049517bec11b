/**
 * Stored prefixes out of a store and into another as one file. It asks nobody whether the file is to be trusted
 * (worker/cache/archives.ts does).
 */
import { encodeArchive, type ArchiveContent } from "../record/archive.ts";
import type { Prefix } from "../record/chain-reader.ts";
import { recordKey, rootKey, type Key } from "../record/keys.ts";
import { encodeRecord, isExpired, type RecordDraft, type StoredRecord } from "../record/record.ts";
import type { ImportResult } from "./store-options.ts";
import type { TierStore } from "./store.ts";
import type { TierName } from "../tiers/tier-index.ts";

/** What is stored of a prompt. */
export interface StoredPrefix extends Omit<Prefix, "tokens"> {
  tokens: readonly number[];
  /** The keys of its full blocks, in order. */
  keys: readonly Key[];
  /** The key of a recurrent state, and how many tokens it stands behind. */
  state?: { key: Key; at: number };
}

/** The prompt's records as one file, up to the first block that is nowhere to be had. */
export async function exportPrefix(
  store: TierStore,
  { fingerprint, blockTokens, tokens, keys, state }: StoredPrefix,
): Promise<{ archive: Uint8Array<ArrayBuffer>; blocks: number; missing: number }> {
  const found: StoredRecord[] = [];
  for (const key of keys) {
    const got = await store.get(key);
    if (!got.hit) break;
    found.push(got.record);
  }
  const blocks = found.length;
  const hasBlocks = state !== undefined && Math.floor(state.at / blockTokens) <= blocks;
  const got = hasBlocks ? await store.get(state.key) : undefined;
  const end = Math.max(blocks * blockTokens, got?.hit && state ? state.at : 0);
  if (got?.hit) found.push(got.record);
  const prefix = { fingerprint, blockTokens, tokens: Uint32Array.from(tokens.slice(0, end)) };
  const drafts = rechained(found, fingerprint, "");
  const records = drafts.map((draft) => encodeRecord({ ...draft, encoding: "raw" }));
  return { archive: encodeArchive(prefix, records), blocks, missing: keys.length - blocks };
}

/**
 * Stores an archive's records under `namespace`. From the first one on that this store would not serve (it has expired,
 * or is coarser than what is served here) they are refused, by reason, since those behind it depend on it.
 */
export function importPrefix(
  store: TierStore,
  { fingerprint, blocks, states }: ArchiveContent,
  options: { namespace?: string; lowest?: TierName } = {},
): ImportResult {
  const records = [...blocks, ...states];
  const nowMs = store.nowEpochMs();
  const result: ImportResult = { keys: [], rejected: {} };
  for (const draft of rechained(records, fingerprint, options.namespace ?? "")) {
    const left = records.length - result.keys.length;
    const { coarsest = "raw", expiresAtMs = 0, createdAtMs = nowMs } = draft;
    if (isExpired({ expiresAtMs }, nowMs)) return { ...result, rejected: { expired: left } };
    if (!store.accepts({ coarsest })) return { ...result, rejected: { encoding: left } };
    const record = { ...draft, createdAtMs: Math.min(createdAtMs, nowMs) };
    if (store.put(record, options.lowest) === "refused") return { ...result, rejected: { room: left } };
    result.keys.push(recordKey(draft.kind, draft.parentKey, draft.tokens));
  }
  return result;
}

/** Records of one chain, the blocks in order and first, as drafts that are chained from a namespace's root. */
function rechained(records: readonly StoredRecord[], fingerprint: Key, namespace: string): RecordDraft[] {
  const chain = [rootKey(fingerprint, namespace)];
  return records.map((record) => {
    const { kind, blockIndex, tokens, payload, coarsest, createdAtMs, expiresAtMs, rebuildCost } = record;
    const parentKey = chain[blockIndex] as Key;
    if (kind === "block") chain.push(recordKey(kind, parentKey, tokens));
    return {
      ...{ kind, parentKey, fingerprint, namespace, blockIndex, tokens, payload },
      ...{ coarsest, createdAtMs, expiresAtMs, rebuildCost },
    };
  });
}
