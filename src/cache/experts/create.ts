/** Makes an expert policy from its name: the one place that knows them all. */
import type { ExpertCacheShape } from "./entry.ts";
import { MoeInfinityExperts } from "./moe-infinity.ts";
import { LfuExperts, LruExperts, StaticExperts, type ExpertPolicy, type ExpertPolicyName } from "./policy.ts";
import { ProMoeExperts } from "./promoe.ts";

/** @param reorders whether resident experts run first */
export function createExpertPolicy(
  name: ExpertPolicyName,
  shape: ExpertCacheShape,
  reorders: boolean,
): ExpertPolicy {
  switch (name) {
    case "lru":
      return new LruExperts();
    case "lfu":
      return new LfuExperts();
    case "static":
      return new StaticExperts(shape.classes, shape.chosen);
    case "moe-infinity":
      return new MoeInfinityExperts(shape);
    case "promoe":
      return new ProMoeExperts(shape, reorders);
  }
}
