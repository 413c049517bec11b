/** What the killed process and its judge agree on. Apart from both, so that the child does not bundle a bundler. */
export const CHAIN_BLOCKS = 6;
export const SPILL_PAYLOAD_BYTES = 20_000;
export const SPILL_SEGMENT_BYTES = 300_000;
