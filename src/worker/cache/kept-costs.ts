/**
 * Keeps what was learned of a machine's speed, as one small record in the store, for the next time that the same model is loaded on
 * the same adapter. One that is damaged, another model's or another adapter's is none.
 */
import { background } from "../../base.ts";
import type { Runner } from "../../model/runner.ts";
import type { CostModel } from "../../schedule/cost/model.ts";
import type { Key } from "../../tier/record/keys.ts";
import type { TierStore } from "../../tier/store/store.ts";
import { KeptRecord } from "./kept-record.ts";

/** A record has tokens; those of this one say nothing. */
const NUMBERS = [1];

export class KeptCosts {
  private readonly record: KeptRecord;
  private readonly costs: CostModel;

  /** @param model everything that decides what is computed */
  constructor(
    store: TierStore,
    namespace: string,
    { adapterName, gpu }: Pick<Runner, "adapterName" | "gpu">,
    { model, costs, nowMs }: { model: Key; costs: CostModel; nowMs: number },
  ) {
    const adapter = `${adapterName}, ${gpu.features.subgroups ? "with" : "without"} subgroups`;
    this.record = new KeptRecord(store, namespace, { costsOf: model, adapter }, nowMs);
    this.costs = costs;
  }

  /** Takes over what was learned before; whether there was anything. */
  async start(): Promise<boolean> {
    const state = readObject(await this.record.read(NUMBERS));
    if (state) this.costs.restore(state);
    return state !== undefined;
  }

  /** A request has ended. */
  ended(nowMs: number): void {
    if (this.record.isDue(nowMs)) background(this.write(), "record of what steps cost");
  }

  /** Writes what is known now in place of what was written before. */
  async write(): Promise<void> {
    const state = this.costs.state();
    if (state.prefill.length === 0) return;
    await this.record.replace(NUMBERS, new TextEncoder().encode(JSON.stringify(state)));
  }
}

function readObject(payload: Uint8Array | undefined): Record<string, unknown> | undefined {
  try {
    const value: unknown = payload && JSON.parse(new TextDecoder().decode(payload));
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
