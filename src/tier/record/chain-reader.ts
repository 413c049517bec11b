/**
 * The records of one prompt, taken in one by one as somebody else hands them over: the blocks in order, then states. Each is
 * decoded and compared with the chain that the prompt's own tokens make; nothing is believed that a record says of itself.
 * Pure. That keys and values are those which the model computes for the prompt cannot be seen from them.
 */
import { chainKeys, namespaceHashOf, recordKey, rootKey, type Key } from "./keys.ts";
import { decodeRecord, type StoredRecord } from "./record.ts";

/** A prompt, as far as records of it are there. */
export interface Prefix {
  fingerprint: Key;
  blockTokens: number;
  /** Every one of them is covered by a block or a state. */
  tokens: Uint32Array;
}

/** Why a record is refused: its bytes fail a check, or it is sound and of something else. */
export interface Refusal {
  isDamaged: boolean;
  why: string;
}

export class ChainReader {
  /** The keys of the prompt's full blocks, in the namespace "". */
  readonly keys: readonly Key[];
  private readonly prefix: Prefix;
  private nextBlock: number;
  private states = 0;

  /** @param from the first block that is expected; those before it are there */
  constructor(prefix: Prefix, from = 0) {
    this.prefix = prefix;
    this.keys = chainKeys(prefix.fingerprint, "", prefix.tokens, prefix.blockTokens);
    this.nextBlock = from;
  }

  /** Takes one record in if it is the next of the prompt's chain. */
  take(bytes: Uint8Array): StoredRecord | Refusal {
    const decoded = decodeRecord(bytes);
    if (!decoded.ok) return { isDamaged: true, why: decoded.reason };
    const { record } = decoded;
    const why = this.strangenessOf(record);
    if (why !== undefined) return { isDamaged: false, why };
    if (record.kind === "block") this.nextBlock++;
    else this.states++;
    return record;
  }

  /** What makes a sound record another than the next one of this prompt; undefined if nothing does. */
  private strangenessOf(record: StoredRecord): string | undefined {
    const { kind, blockIndex, key } = record;
    if (record.fingerprint !== this.prefix.fingerprint) return `it is of the model ${record.fingerprint}`;
    if (record.namespaceHash !== namespaceHashOf("")) return "it is of a namespace";
    if (record.encoding !== "raw") return `its encoding is ${record.encoding}`;
    const numbers = [record.createdAtMs, record.expiresAtMs, record.rebuildCost];
    if (!numbers.every((number) => Number.isFinite(number) && number >= 0))
      return "a time or cost is no number";
    if (kind !== "block") return this.strangenessOfState(record);
    if (this.states > 0 || blockIndex !== this.nextBlock) return `block ${blockIndex} is out of order`;
    return key === this.keys[blockIndex] ? undefined : `block ${blockIndex} has other tokens`;
  }

  private strangenessOfState({ blockIndex, tokenCount, key }: StoredRecord): string | undefined {
    const { fingerprint, blockTokens, tokens } = this.prefix;
    const start = blockIndex * blockTokens;
    if (blockIndex > this.nextBlock || tokenCount >= blockTokens || start + tokenCount > tokens.length)
      return `its state stands at ${start + tokenCount} tokens, behind ${this.nextBlock} blocks`;
    const parent = blockIndex === 0 ? rootKey(fingerprint, "") : (this.keys[blockIndex - 1] as Key);
    const expected = recordKey("snapshot", parent, tokens.subarray(start, start + tokenCount));
    return key === expected ? undefined : "its state has other tokens";
  }
}
