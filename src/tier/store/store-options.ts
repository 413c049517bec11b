/** What a store is opened with, and what its calls take and give. Types only; store.ts has the behaviour. */
import type { Clock } from "../../base.ts";
import type { NoticeCode } from "../tiers/disk-tier.ts";
import type { Key } from "../record/keys.ts";
import type { KvBits, KvLayout } from "../record/kv-quant.ts";
import type { Expected, MissReason, RecordDraft, StoredRecord } from "../record/record.ts";
import type { ChooseVictim, TierName } from "../tiers/tier-index.ts";
import type { TierSpec, UsualBudgets } from "../tiers/tier-list.ts";
import type { Timer } from "../disk/timer.ts";

export interface StoreOptions extends UsualBudgets {
  /** The tiers, the fastest first. Default: RAM, and a disk if `disk` is given, with the budgets below (tiers/tier-list.ts). */
  tiers?: readonly TierSpec[];
  /** Bound of each write-behind queue: there is one for each asynchronous tier. Default 64 MiB. */
  queueBytes?: number;
  /** Stores block records in so many bits; off by default. Finer records than this are served too, coarser ones not. */
  atRestBits?: KvBits;
  /** Stores recurrent states in f16; off by default. */
  atRestStateBits?: 16;
  /** Who goes when a tier is full; least recently used by default. */
  choose?: ChooseVictim;
  /** Told when a tier is lost, full or back; each once an outage. */
  onNotice?: (code: NoticeCode, message: string) => void;
  /** Name of the channel on which tabs tell each other of changes; none by default. */
  hintsChannel?: string;
  /** A call of a backend without an answer for so long means that it hangs. Default 10,000. */
  ioTimeoutMs?: number;
  /** How long a lost tier is left alone. Default 30,000. */
  reopenDelayMs?: number;
  /** A key that is absent is looked for again in the asynchronous tiers if the list is older than this. Default 1,000. */
  refreshAfterMs?: number;
  /** Idle work is done so often by itself; 0 (default): only when maintain() is called. */
  maintainEveryMs?: number;
  clock?: Clock;
  timer?: Timer;
  /** Milliseconds since 1970, for ages and expiry. */
  nowEpochMs?: () => number;
  /** For tests of the tests only. */
  hooks?: { trustRecords?: boolean };
}

/** A record to store. `layout` lets a block's payload be quantised, `stateBytes` the f32 state at a snapshot's start. */
export interface PutDraft extends Omit<RecordDraft, "encoding"> {
  layout?: KvLayout;
  stateBytes?: number;
}

/** `known`: it is there already. `refused`: the store is closed, or the record fits into no tier. */
export type PutOutcome = "stored" | "known" | "refused";

export type GetResult =
  { hit: true; tier: TierName; record: StoredRecord } | { hit: false; reason: MissReason };

/** What the asker knows of the record, to be compared. */
export type Asked = Omit<Expected, "key" | "nowMs">;

export interface Filter {
  namespace?: string;
  fingerprint?: Key;
}

export interface ImportResult {
  /** The keys that are stored now. */
  keys: Key[];
  /** Records that are not, by reason; "room": they fit into no tier. */
  rejected: Partial<Record<MissReason | "room", number>>;
}
