/**
 * One small record that belongs to a model, in the store beside its keys and values: read when the model is loaded, and replaced
 * while it runs. It is checked as all records are, so that one that is damaged is none. It does not know what the record holds.
 */
import { fingerprintOf, recordKey, rootKey, type Key } from "../../tier/record/keys.ts";
import type { TierStore } from "../../tier/store/store.ts";

/** Between two writes because requests have ended, at least. */
const WRITE_EVERY_MS = 60_000;

export class KeptRecord {
  private readonly store: TierStore;
  private readonly namespace: string;
  private readonly fingerprint: Key;
  private readonly root: Key;
  private writtenMs: number;
  private writing: Promise<void> = Promise.resolve();

  /** @param belongsTo everything that must be the same for the record to be found, by name */
  constructor(
    store: TierStore,
    namespace: string,
    belongsTo: Readonly<Record<string, string>>,
    nowMs: number,
  ) {
    this.store = store;
    this.namespace = namespace;
    this.fingerprint = fingerprintOf(belongsTo);
    this.root = rootKey(this.fingerprint, namespace);
    this.writtenMs = nowMs;
  }

  /** @param numbers tell apart records of one model, and stand for the tokens that every record has */
  async read(numbers: readonly number[]): Promise<Uint8Array | undefined> {
    const got = await this.store.get(this.key(numbers), { fingerprint: this.fingerprint });
    return got.hit ? got.record.payload : undefined;
  }

  /** Whether it is time to write again; true at most once a minute. */
  isDue(nowMs: number): boolean {
    if (nowMs < this.writtenMs + WRITE_EVERY_MS) return false;
    this.writtenMs = nowMs;
    return true;
  }

  /** Writes in place of what was written before, one after another. */
  replace(numbers: readonly number[], payload: Uint8Array): Promise<void> {
    this.writing = this.writing.then(() => this.replaceNow(numbers, payload));
    return this.writing;
  }

  private async replaceNow(numbers: readonly number[], payload: Uint8Array): Promise<void> {
    await this.store.drop([this.key(numbers)]);
    this.store.put({
      ...{ kind: "snapshot", parentKey: this.root, fingerprint: this.fingerprint, namespace: this.namespace },
      ...{ blockIndex: 0, tokens: [...numbers], payload, rebuildCost: 0 },
    });
  }

  private key(numbers: readonly number[]): Key {
    return recordKey("snapshot", this.root, numbers);
  }
}
