/**
 * Archives between engines, and stores between settings: into the importer's namespace alone, refused whole where they
 * hold what the model does not compute, and never an inexact block or state to an engine that stores exactly.
 */
import { isSignatureValid, namedSigner, newSigningKey, signArchive } from "../../src/archive-signing.ts";
import { TidepoolError } from "../../src/errors.ts";
import { decodeArchive, encodeArchive, type ArchiveContent } from "../../src/tier/record/archive.ts";
import { rootKey } from "../../src/tier/record/keys.ts";
import { encodeRecord, type StoredRecord } from "../../src/tier/record/record.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { ArchiveImport, EngineOptions, ScoreResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession } from "../support/session.ts";
import { loadGolden, nmse } from "./golden.ts";

const BLOCK = 16;

const OPTIONS: EngineOptions = {
  ...{ dtype: "f32", blockTokens: BLOCK, chunkTokens: 32, cache: { policy: "vllm", restore: "load" } },
};

/** What kernels may differ by from the reference (golden.cases.ts). */
const GATE = 1e-9;

async function open(env: CaseEnv, model: Uint8Array, namespace = ""): Promise<TestSession> {
  const store = await TierStore.open({ ramBytes: 2 ** 26 });
  return TestSession.load(env.gpu, model, { ...OPTIONS, cache: { ...OPTIONS.cache, namespace } }, store);
}

const tokensInput = (tokens: readonly number[]) => ({ kind: "tokens", tokens }) as const;

async function exported(session: TestSession, tokens: readonly number[]): Promise<Uint8Array> {
  await session.generate(tokensInput(tokens), { maxTokens: 1 }).done;
  await session.session.mover?.drain(5000);
  const answer = await session.session.call({ method: "cacheExport", input: tokensInput(tokens) });
  return (answer as { archive: Uint8Array }).archive;
}

function take(session: TestSession, archive: Uint8Array, verify: number): Promise<ArchiveImport> {
  return session.session.call({ method: "cacheImport", archive, verify }) as Promise<ArchiveImport>;
}

type Change = (record: StoredRecord) => Uint8Array | undefined;

/** The archive with the payloads of some records changed, and every checksum made right. */
function forged(archive: Uint8Array, change: Change): Uint8Array {
  const content: ArchiveContent = decodeArchive(archive);
  const records = [...content.blocks, ...content.states].map((record) =>
    encodeRecord({ ...record, namespace: "", payload: change(record) ?? record.payload }),
  );
  return encodeArchive(content, records);
}

/** The first number that is not zero, made twice as large. */
function oneNumberChanged(payload: Uint8Array): Uint8Array {
  const numbers = new Float32Array(payload.slice().buffer);
  const at = numbers.findIndex((number) => Math.abs(number) > 0.01);
  numbers[at] = 2 * (numbers[at] as number);
  return new Uint8Array(numbers.buffer);
}

async function checkRefused(session: TestSession, archive: Uint8Array, what: string): Promise<void> {
  const refusal = await take(session, archive, 1000).then(
    () => "taken",
    (error: unknown) => (error instanceof TidepoolError ? error.code : String(error)),
  );
  equal(refusal, "untrusted", what);
  equal(session.session.mover?.store.list(), [], `records after ${what}`);
  session.checkIdle();
}

function carried(variant: string): Case {
  return {
    name: `model/archives/${variant} into a namespace, with a spot check`,
    async run(env) {
      const { golden, model } = await loadGolden(env, `goldens/models/${variant}`);
      const tokens = golden.tokens.slice(0, -3); // the state stands inside a block
      const maker = await open(env, model);
      const owner = await open(env, model, "alice");
      try {
        const archive = await exported(maker, tokens);
        const { blocks, states } = decodeArchive(archive);
        equal(blocks.length, Math.floor(tokens.length / BLOCK), "blocks in the archive");
        const isHybrid = owner.session.runner.states.slotBytes > 0;
        equal(states.length, isHybrid ? 1 : 0, "states in the archive");
        for (const record of [...blocks, ...states]) {
          const change: Change = ({ key, payload }) =>
            key === record.key ? oneNumberChanged(payload) : undefined;
          await checkRefused(owner, forged(archive, change), `${record.kind} ${record.blockIndex} forged`);
        }
        const nan: Change = ({ payload }) => new Uint8Array(payload.length).fill(255);
        await checkRefused(owner, forged(archive, nan), "numbers that are none");
        await checkTaken(owner, maker, archive, tokens);
      } finally {
        await maker.close();
        await owner.close();
      }
    },
  };
}

/** An honest one is taken, found by the importer's namespace alone, and cleared with it. */
async function checkTaken(
  owner: TestSession,
  maker: TestSession,
  archive: Uint8Array,
  tokens: readonly number[],
): Promise<void> {
  const { keys, rejected } = await take(owner, archive, 2);
  const { blocks, states } = decodeArchive(archive);
  equal([keys.length, rejected], [blocks.length + states.length, {}], "taken in");
  owner.checkIdle();
  const store = owner.session.mover!.store;
  const common = rootKey(owner.session.mover!.fingerprint, "");
  equal(store.childrenOf(common), [], "what the namespace of all finds");
  const warm = await owner.generate(tokensInput([...tokens, 1]), { maxTokens: 1 }).done;
  const at = Math.max(blocks.length * BLOCK, states.length === 0 ? 0 : tokens.length);
  equal(warm.usage.cachedTokens.ram, at, "found by the importer");
  const cold = await maker.generate(tokensInput([...tokens, 1]), { maxTokens: 1, cache: "off" }).done;
  equal(warm.tokens, cold.tokens, "tokens");
  await owner.session.call({ method: "cacheClear", namespace: "alice" });
  equal(store.list(), [], "records after the namespace was cleared");
}

/** Golden logits, from a store in which a quantising engine has left blocks, and states that it computed from them. */
function exactCase(variant: string): Case {
  return {
    name: `model/archives/${variant} exact beside a store of 4 bits`,
    async run(env) {
      const { golden, expected, model } = await loadGolden(env, `goldens/models/${variant}`);
      const { tokens, vocabSize } = golden;
      const disk = new KeptBackend();
      const coarse = await TestSession.load(env.gpu, model, OPTIONS, await disk.openStore({ atRestBits: 4 }));
      let archive: Uint8Array;
      try {
        await exported(coarse, tokens.slice(0, BLOCK + 1));
        coarse.session.scheduler.forget(); // what comes now starts from what 4 bits have left of it
        const more = await coarse.generate(tokensInput(tokens), { maxTokens: 1 }).done;
        equal(more.usage.cachedTokens.ram >= BLOCK, true, "the quantising engine finds its own");
        archive = await exported(coarse, tokens);
      } finally {
        await coarse.close();
      }
      const exact = await TestSession.load(env.gpu, model, OPTIONS, await disk.openStore());
      try {
        const taken = await take(exact, archive, 0);
        equal(Object.keys(taken.rejected), ["encoding"], "why its archive is refused");
        const from = BLOCK * Math.floor((tokens.length - 2) / BLOCK) + 1; // the first row behind a stored state
        const score = async (): Promise<ScoreResult["usage"]> => {
          const call = { method: "score", tokens, from, logits: true } as const;
          const { logits, usage } = (await exact.session.call(call)) as ScoreResult;
          const error = nmse(logits as Float32Array, expected.subarray(from * vocabSize));
          if (!(error < GATE)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${GATE}`);
          return usage;
        };
        equal((await score()).cachedTokens, { gpu: 0, ram: 0, disk: 0 }, "taken from the quantising engine");
        await exact.session.mover?.drain(5000);
        exact.session.scheduler.forget();
        // Its own blocks, and a state of its own: that of the quantising engine stands behind the same tokens.
        equal((await score()).cachedTokens.ram >= 2 * BLOCK, true, "the exact engine finds its own");
      } finally {
        await exact.close();
      }
    },
  };
}

const signing: Case = {
  name: "model/archives/signed in this runtime",
  needs: { shared: false },
  async run() {
    const prefix = { fingerprint: "00".repeat(16), blockTokens: BLOCK, tokens: new Uint32Array(0) };
    const archive = encodeArchive(prefix, []);
    try {
      const { publicKey, privateKey } = await newSigningKey();
      const signed = await signArchive(archive, privateKey);
      equal([namedSigner(signed), await isSignatureValid(signed)], [publicKey, true], "signer");
      const changed = signed.slice();
      changed[12]! ^= 1;
      equal(await isSignatureValid(changed), false, "signature of another header");
    } catch (error) {
      // Only an old browser may lack it, and then it is said.
      if (!(error instanceof TidepoolError) || error.code !== "unsupported" || !("document" in globalThis))
        throw error;
    }
  },
};

export const cases: Case[] = [
  carried("llama"),
  { ...carried("lfm2"), full: true },
  exactCase("llama"),
  exactCase("lfm2"),
  signing,
];
