/** Who computes prompts for this engine: another machine (http-source.ts) or another device of this one (page-source.ts). Types, and one error. */
import type { PrefillAsk, PrefillFacts, PrefillRecord } from "../../wire/prefill.ts";

export interface PrefillSource {
  /** As a message names it. */
  readonly name: string;
  /** Whether tokens that it is asked for leave this machine. */
  readonly leavesMachine: boolean;
  /** Once and for all by what its records are told apart. @throws SourceFault */
  facts(signal: AbortSignal): Promise<PrefillFacts>;
  /** A prompt's records in their order, of `maxBytes` each at most. @throws SourceFault */
  records(ask: PrefillAsk, maxBytes: number, signal: AbortSignal): AsyncIterable<PrefillRecord>;
  close(): Promise<void>;
}

/** Why a source gave no more records. */
export class SourceFault extends Error {
  /** Asking again soon is of no use: another model, a wrong key. */
  readonly isLasting: boolean;

  constructor(message: string, isLasting = false) {
    super(message);
    this.isLasting = isLasting;
  }
}
