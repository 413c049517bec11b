/**
 * The prefix cache of a loaded model: its slots, its policy, and what a token costs in FLOPs and bytes, in the terms of
 * shape/cost.ts.
 */
import type { BlockPool } from "../../cache/blocks.ts";
import type { Cost } from "../../shape/cost.ts";
import { createPrefixCache } from "../../cache/policy/create.ts";
import type { PrefixCache } from "../../cache/prefix.ts";
import { StateSlotPool } from "../../cache/state-slot-pool.ts";
import type { AlphaTuner } from "../../cache/policy/alpha-tuner.ts";
import type { Runner } from "../../model/runner.ts";
import { modelCost } from "../../model/cost.ts";
import type { CostFacts } from "../../schedule/cost/model.ts";
import type { PoolSizes } from "../../schedule/scheduler.ts";
import type { TierStore } from "../../tier/store/store.ts";
import type { CacheOptions } from "../../wire/protocol.ts";

/** The policy where the caller names none. */
const DEFAULT_POLICY = "marconi";

/** @param pool the KV slots */
export function makeCache(
  runner: Runner,
  pool: BlockPool,
  policy: CacheOptions["policy"] = DEFAULT_POLICY,
): { cache: PrefixCache; tuner: AlphaTuner | undefined } {
  const { blockTokens } = runner.options;
  const { states } = runner;
  const { maxSnapshots } = runner.plan.states;
  return createPrefixCache({
    ...{ policy, blockTokens, cost: cacheCost(runner), pool },
    ...(states.slotBytes > 0 && { snapshotPool: new StateSlotPool(states.slots, maxSnapshots) }),
    tunerBytes: runner.maxBlocks * runner.pool.slotBytes + maxSnapshots * states.slotBytes,
  });
}

/** What a runner's pools hold. */
export function poolSizes({ pool, states, maxBlocks, plan }: Runner): PoolSizes {
  const { maxSnapshots } = plan.states;
  return { slots: pool.slots, maxBlocks, stateSlots: states.slots, maxSnapshots };
}

export function cacheCost({ shape, options, pool, states }: Runner): Cost {
  const cost = modelCost(shape, options.kvDtype);
  const bytesPerToken = pool.slotBytes / pool.options.blockTokens; // as they lie on the GPU
  return { ...cost, bytesPerToken, bytesPerSnapshot: states.slotBytes };
}

/** What is assumed of a machine's speed follows from these. @param store the lower tiers, if there are any */
export function costFacts(runner: Runner, store: TierStore | undefined): CostFacts {
  const { pool, options, gpu } = runner;
  const tiers = store?.tierNames.map((name) => ({ name, isInMemory: store.isInMemory(name) })) ?? [];
  const flopsPerToken = cacheCost(runner).flopsLinear;
  const { blockTokens } = options;
  return {
    blockTokens,
    bytesPerBlock: pool.slotBytes,
    flopsPerToken,
    isSoftware: gpu.adapter.software,
    tiers,
  };
}
