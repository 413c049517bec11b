/** Makes an expert policy from its name: the one place that knows them all. */
import type { ExpertCacheShape } from "./entry.ts";
import { LruExperts, type ExpertPolicy, type ExpertPolicyName } from "./policy.ts";

export function createExpertPolicy(name: ExpertPolicyName, _shape: ExpertCacheShape): ExpertPolicy {
  switch (name) {
    case "lru":
      return new LruExperts();
  }
}
