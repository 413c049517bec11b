/**
 * Builds a prefix cache from a policy's name: the one place that knows every policy. It decides nothing else.
 */
import { TidepoolError } from "../../errors.ts";
import { MarconiPolicy } from "./marconi.ts";
import type { FutureRequest } from "./offline.ts";
import { OfflinePolicy } from "./offline.ts";
import type { PrefixPolicy, PolicyName } from "./policy.ts";
import { leafPolicy } from "./policy.ts";
import type { PrefixOptions } from "../prefix.ts";
import { PrefixCache } from "../prefix.ts";
import { AlphaTuner } from "./alpha-tuner.ts";

export interface CreateOptions extends Omit<PrefixOptions, "policy"> {
  policy: PolicyName;
  /** Tokens between two snapshots of `vllm`. Default: the tree's block. */
  snapshotEvery?: number;
  /** A fixed weight for `marconi`; without it the weight starts at 0 and is tuned. */
  alpha?: number;
  /** Bytes for the tuner's shadow caches where the real limit is in the pools. Default: `capacityBytes`. */
  tunerBytes?: number;
  /** What `offline` knows: walks through all requests to come. */
  future?: () => Iterable<FutureRequest>;
}

/** A cache, and the tuner of its alpha where the policy is `marconi` with a limited budget and no fixed alpha. The
 * caller records finished requests with the tuner and lets it work in idle time. */
export function createPrefixCache(options: CreateOptions): {
  cache: PrefixCache;
  tuner: AlphaTuner | undefined;
} {
  const policy = createPolicy(options);
  const cache = new PrefixCache({ ...options, policy });
  const tunerBytes = options.tunerBytes ?? cache.capacityBytes;
  const isTuned = policy instanceof MarconiPolicy && options.alpha === undefined && tunerBytes !== Infinity;
  if (!isTuned) return { cache, tuner: undefined };
  const { cost, blockTokens, keepsViews = false } = options;
  const tuner = new AlphaTuner({ cost, blockTokens, capacityBytes: tunerBytes, policy, keepsViews });
  return { cache, tuner };
}

function createPolicy(options: CreateOptions): PrefixPolicy {
  switch (options.policy) {
    case "marconi":
      return new MarconiPolicy(options.cost, options.alpha ?? 0);
    case "offline":
      if (options.future === undefined) {
        throw new TidepoolError(
          "invalid_argument",
          "the policy offline knows the future and exists only in replays",
        );
      }
      return new OfflinePolicy(options.cost, options.future);
    case "lru":
    case "lfu":
    case "length-aware":
    case "vllm":
    case "sglang":
      return leafPolicy(options.policy, options.snapshotEvery ?? options.blockTokens);
  }
}
