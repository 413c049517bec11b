/**
 * What becomes of packed keys and values outside the steps that make them: they come back from a disk, an archive and a
 * pre-emption, and what is generated behind them is what is generated without the interruption. Records of another type are a
 * miss, and an archive of another type is refused. Lost devices and failed steps are in device-loss.cases.ts and
 * failed-steps.cases.ts, for packed pools too.
 */
import type { KvDtype } from "../../src/gpu/packed.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { ArchiveImport, EngineOptions, GenerationResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession } from "../support/session.ts";

const BLOCK = 16;

type Packed = "q8" | "q4" | "q2";

const folderOf = (variant: string): string => `goldens/models/${variant}`;

function optionsOf(kvDtype: KvDtype, more: EngineOptions = {}): EngineOptions {
  const cache = { policy: "vllm", restore: "load" } as const;
  return { dtype: "f32", kvDtype, blockTokens: BLOCK, chunkTokens: 32, maxRequests: 3, cache, ...more };
}

/** Of the golden's tokens: two prompts with a beginning in common, both of which end inside a block. */
async function promptsOf(env: CaseEnv, variant: string): Promise<number[][]> {
  const golden = new TextDecoder().decode(await env.shared(`${folderOf(variant)}/golden.json`));
  const { tokens } = JSON.parse(golden) as { tokens: number[] };
  return [tokens.slice(0, 45), [...tokens.slice(0, 34), ...tokens.slice(5, 14)]];
}

interface Opened {
  session: TestSession;
  ask(prompt: readonly number[], off?: "off"): Promise<GenerationResult>;
}

async function withSession<T>(
  env: CaseEnv,
  variant: string,
  options: EngineOptions,
  store: TierStore | undefined,
  run: (opened: Opened) => Promise<T>,
): Promise<T> {
  const model = await env.shared(`${folderOf(variant)}/model.gguf`);
  const session = await TestSession.load(env.gpu, model, options, store);
  try {
    const ask: Opened["ask"] = (tokens, off) =>
      session.generate({ kind: "tokens", tokens }, { maxTokens: 24, ...(off && { cache: off }) }).done;
    const result = await run({ session, ask });
    await session.session.mover?.drain(5000);
    session.checkIdle();
    return result;
  } finally {
    await session.close();
  }
}

const tokensOf = (results: readonly GenerationResult[]): number[][] => results.map(({ tokens }) => tokens);

async function inTurn(prompts: readonly number[][], ask: Opened["ask"], off?: "off"): Promise<number[][]> {
  const results: GenerationResult[] = [];
  for (const prompt of prompts) results.push(await ask(prompt, off));
  return tokensOf(results);
}

/** A turn of a conversation, and the next one behind it from another process. */
function diskCase(variant: string, kvDtype: Packed, full: boolean): Case {
  return {
    name: `model/packed-life/${variant} in ${kvDtype} from the disk, and missed by other types`,
    full,
    async run(env) {
      const prompts = await promptsOf(env, variant);
      const disk = new KeptBackend();
      const nextOf = (answers: readonly number[][]): number[][] =>
        prompts.map((prompt, index) => [...prompt, ...(answers[index] as number[]), 7, 8, 9]);
      const store = await disk.openStore();
      const first = await withSession(env, variant, optionsOf(kvDtype), store, async ({ ask }) => {
        const answers = await inTurn(prompts, ask);
        equal(await inTurn(prompts, ask, "off"), answers, "tokens without a cache");
        return { answers, next: await inTurn(nextOf(answers), ask, "off") };
      });
      await withSession(env, variant, optionsOf(kvDtype), await disk.openStore(), async ({ ask }) => {
        const again = await Promise.all(nextOf(first.answers).map((prompt) => ask(prompt)));
        const fromDisk = again.reduce((sum, { usage }) => sum + usage.cachedTokens.disk, 0);
        equal(fromDisk >= 2 * BLOCK, true, "tokens from the disk");
        equal(tokensOf(again), first.next, "tokens behind what came from the disk");
      });
      const other = kvDtype === "q8" ? "q4" : "q8";
      for (const type of [other, "f32"] as const) {
        await withSession(env, variant, optionsOf(type), await disk.openStore(), async ({ ask }) => {
          const own = await inTurn(prompts.slice(0, 1), ask, "off");
          const found = await ask(prompts[0]!);
          equal(found.usage.cachedTokens, { gpu: 0, ram: 0, disk: 0 }, `tokens of ${kvDtype} in ${type}`);
          equal(found.tokens, own[0], `tokens in ${type}`);
        });
      }
    },
  };
}

async function importedBy({ session }: Opened, archive: Uint8Array): Promise<ArchiveImport> {
  return (await session.session.call({ method: "cacheImport", archive, verify: 2 })) as ArchiveImport;
}

function archiveCase(variant: string, kvDtype: Packed, full: boolean): Case {
  return {
    name: `model/packed-life/${variant} in ${kvDtype} by an archive, refused by other types`,
    full,
    async run(env) {
      const [prompt = []] = await promptsOf(env, variant);
      const ram = () => TierStore.open({ ramBytes: 2 ** 26 });
      const input = { kind: "tokens", tokens: prompt } as const;
      const made = await withSession(env, variant, optionsOf(kvDtype), await ram(), async (maker) => {
        await maker.ask(prompt);
        await maker.session.session.mover?.drain(5000);
        const answer = await maker.session.session.call({ method: "cacheExport", input });
        const next = [...prompt, 7, 8, 9];
        return {
          ...(answer as { archive: Uint8Array }),
          next,
          tokens: (await maker.ask(next, "off")).tokens,
        };
      });
      await withSession(env, variant, optionsOf(kvDtype), await ram(), async (taker) => {
        const taken = await importedBy(taker, made.archive);
        equal([taken.keys.length > 0, taken.rejected], [true, {}], "taken in");
        const { tokens, usage } = await taker.ask(made.next);
        equal(usage.cachedTokens.ram >= 2 * BLOCK, true, "tokens from the archive");
        equal(tokens, made.tokens, "tokens behind what came by the archive");
      });
      for (const type of [kvDtype === "q8" ? "q4" : "q8", "f32"] as const)
        await withSession(env, variant, optionsOf(type), await ram(), async (other) => {
          const { keys, rejected } = await importedBy(other, made.archive);
          equal([keys, Object.keys(rejected)], [[], ["fingerprint"]], `imported in ${type}`);
          const { usage } = await other.ask(made.next);
          equal(usage.cachedTokens, { gpu: 0, ram: 0, disk: 0 }, `tokens of ${kvDtype} in ${type}`);
        });
    },
  };
}

/** How many requests have given way from now on. */
function countPreemptions({ session }: TestSession): () => number {
  const scheduler = session.scheduler as unknown as { preempt(request: unknown): void };
  const preempt = scheduler.preempt.bind(scheduler);
  let count = 0;
  scheduler.preempt = (request) => {
    count++;
    preempt(request);
  };
  return () => count;
}

/** More requests than the pool holds: some give way, and come back from RAM. */
function preemptedCase(variant: string, kvDtype: Packed): Case {
  return {
    name: `model/packed-life/${variant} in ${kvDtype}, pre-empted in a pool too small for all`,
    full: true,
    async run(env) {
      const prompts = await promptsOf(env, variant);
      const all = [0, 3, 6, 9].map((skip, index) => prompts[index % 2]!.slice(skip));
      const store = await TierStore.open({ ramBytes: 2 ** 26 });
      const small = optionsOf(kvDtype, { poolTokens: 144 });
      await withSession(env, variant, small, store, async ({ session, ask }) => {
        const alone = await inTurn(all, ask, "off");
        const gaveWay = countPreemptions(session);
        const check = (): void => {
          session.session.scheduler.check();
          session.session.runner.pool.tails?.check();
        };
        const requests = all.map((tokens) =>
          session.generate({ kind: "tokens", tokens }, { maxTokens: 24 }, check),
        );
        const together = await Promise.all(requests.map(({ done }) => done));
        equal(tokensOf(together), alone, "tokens");
        equal(gaveWay() > 0, true, "whether any gave way");
      });
    },
  };
}

export const cases: Case[] = [
  diskCase("lfm2", "q4", false),
  diskCase("llama", "q8", true),
  diskCase("gptoss", "q2", true),
  diskCase("deepseek2", "q4", true),
  archiveCase("llama", "q4", false),
  archiveCase("lfm2", "q8", true),
  archiveCase("gemma3n", "q2", true),
  preemptedCase("llama", "q8"),
  preemptedCase("lfm2", "q4"),
];
