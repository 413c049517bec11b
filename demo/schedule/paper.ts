/** What Mooncake's paper (arXiv 2407.00079) measured with 8 prefill and 8 decode instances and 23,000 requests. Data alone. */
import type { ClusterRow } from "../../src/sim/cluster/index.ts";

export const PAPER_REQUESTS = 23_000;

/** Rejected requests, at twice the speed of the trace (Table 3). */
export const PAPER_REJECTED: Readonly<Record<ClusterRow["scheduler"], number>> = {
  ...{ none: 4183, early: 3771, predicted: 3589 },
};

/** Seconds to the first token, on average (Fig. 8). */
export const PAPER_TTFT_SECONDS: Readonly<Record<ClusterRow["selection"], number>> = {
  ...{ random: 92.07, load: 60.41, "cache-aware": 14.36, kvcache: 6.26 },
};
