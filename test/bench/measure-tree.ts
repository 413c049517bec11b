/**
 * Measures the prefix tree by itself, without a GPU: how the time of a look-up grows with the tree, and whole requests
 * (look up, take blocks, insert, give back) a second in a full tree, where each must evict. It is src/cache alone.
 */
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { PrefixCache } from "../../src/cache/prefix.ts";
import type { Measurement } from "./report.ts";

const SEED = 11;
const BLOCK_TOKENS = 32;
const VOCAB_SIZE = 32_000;

/** A prompt: a trunk shared by a group of prompts, and an end of its own, in blocks. */
const TRUNK_BLOCKS = 8;
const OWN_BLOCKS = 8;
const PROMPTS_A_TRUNK = 32;
const PROMPT_BLOCKS = TRUNK_BLOCKS + OWN_BLOCKS;

const SIZES = [1_000, 10_000, 100_000, 1_000_000];
const LOOKUPS = 20_000;
const REQUESTS = 10_000;
/** Prompts kept to be looked up; chosen over the whole tree, so that large trees are not judged by their newest part. */
const KEPT_PROMPTS = 2_000;

export function measureTree(name: string, repeats: number): Measurement[] {
  const out: Measurement[] = [];
  for (const blocks of SIZES) {
    const filled = fill(blocks);
    out.push({
      name,
      metric: `look-up of ${PROMPT_BLOCKS * BLOCK_TOKENS} tokens among ${blocks} blocks`,
      unit: "µs",
      values: repeated(repeats, () => lookupMicroseconds(filled)),
    });
    if (blocks !== SIZES.at(-1)) continue;
    out.push({
      name,
      metric: `requests of ${PROMPT_BLOCKS} blocks, tree full with ${blocks}`,
      unit: "per second",
      values: repeated(repeats, () => requestsPerSecond(filled)),
    });
    filled.cache.check();
  }
  return out;
}

interface Filled {
  cache: PrefixCache;
  prompts: PromptMaker;
  kept: Int32Array[];
}

/** A tree that holds as many blocks as its pool has slots, less at most one prompt's. */
function fill(blocks: number): Filled {
  const pool = new BlockPool(blocks);
  const cost = { flopsLinear: 1, flopsQuadratic: 1e-3, bytesPerToken: 1, bytesPerSnapshot: 0 };
  const { cache } = createPrefixCache({ policy: "lru", blockTokens: BLOCK_TOKENS, cost, pool });
  const prompts = new PromptMaker(new Random(SEED));
  const kept: Int32Array[] = [];
  const keepEvery = Math.max(1, Math.floor(blocks / OWN_BLOCKS / KEPT_PROMPTS));
  for (let count = 0; pool.freeCount >= PROMPT_BLOCKS; count++) {
    const prompt = prompts.next();
    request(cache, prompt);
    if (count % keepEvery === 0) kept.push(prompt);
  }
  return { cache, prompts, kept };
}

class PromptMaker {
  private readonly random: Random;
  private trunk = new Int32Array(0);
  private made = 0;

  constructor(random: Random) {
    this.random = random;
  }

  next(): Int32Array {
    if (this.made++ % PROMPTS_A_TRUNK === 0) this.trunk = this.tokens(TRUNK_BLOCKS);
    const prompt = new Int32Array(PROMPT_BLOCKS * BLOCK_TOKENS);
    prompt.set(this.trunk);
    prompt.set(this.tokens(OWN_BLOCKS), this.trunk.length);
    return prompt;
  }

  private tokens(blocks: number): Int32Array<ArrayBuffer> {
    return Int32Array.from({ length: blocks * BLOCK_TOKENS }, () => this.random.below(VOCAB_SIZE));
  }
}

/** All that a request does with the tree. */
function request(cache: PrefixCache, tokens: Int32Array): void {
  const lease = cache.acquire(tokens);
  const missing = PROMPT_BLOCKS - lease.table.length;
  if (!cache.extend(lease, missing)) throw new Error(`no room for ${missing} blocks`);
  cache.insert(lease, tokens);
  cache.release(lease);
}

function lookupMicroseconds({ cache, kept }: Filled): number {
  const random = new Random(SEED);
  const order = Array.from({ length: LOOKUPS }, () => kept[random.below(kept.length)] as Int32Array);
  let found = 0;
  const started = performance.now();
  for (const prompt of order) found += cache.match(prompt).tokens;
  const ms = performance.now() - started;
  if (found !== LOOKUPS * PROMPT_BLOCKS * BLOCK_TOKENS) throw new Error("a stored prompt was not found");
  return (1000 * ms) / LOOKUPS;
}

/** New prompts only; making them is not timed. */
function requestsPerSecond({ cache, prompts, kept }: Filled): number {
  const fresh = Array.from({ length: REQUESTS }, () => prompts.next());
  const started = performance.now();
  for (const prompt of fresh) request(cache, prompt);
  const seconds = (performance.now() - started) / 1000;
  kept.length = 0; // the oldest are evicted by now
  return REQUESTS / seconds;
}

/** The first run is the compiler's. */
function repeated(repeats: number, run: () => number): number[] {
  run();
  return Array.from({ length: repeats }, run);
}
