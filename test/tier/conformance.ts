/**
 * What every Backend must do, as cases that need no test framework, so that they run in Vitest, in a browser page and in
 * Deno. A runner makes a fixture for each case and calls it.
 */
import type { Backend } from "../../src/tier/disk/backend.ts";
import type { Key } from "../../src/tier/record/keys.ts";
import { decodeRecord } from "../../src/tier/record/record.ts";
import { chain, encoded, keyOf, keysOf, payloadOf } from "./make.ts";

/** Backends on one and the same fresh place, each as if from a process (tab) of its own. */
export interface Fixture {
  /** Makes a backend that is not open yet. */
  make(): Promise<Backend>;
  cleanUp(): Promise<void>;
}

export interface Traits {
  /** Whether records outlive close(). */
  persistent: boolean;
}

export interface Case {
  name: string;
  needs?: keyof Traits;
  run(fixture: Fixture): Promise<void>;
}

function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

function same(actual: unknown, expected: unknown, message: string): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  check(a === b, `${message}: got ${a}, expected ${b}`);
}

async function opened(fixture: Fixture): Promise<Backend> {
  const backend = await fixture.make();
  await backend.open();
  return backend;
}

async function listed(fixture: Fixture): Promise<{ backend: Backend; keys: Key[] }> {
  const backend = await fixture.make();
  const { added } = await backend.open();
  return { backend, keys: added.map((info) => info.key).sort() };
}

/** Reads a record and checks its content against its key. */
async function readsWell(backend: Backend, key: Key, payloadBytes = 64): Promise<void> {
  const bytes = await backend.read(key);
  check(bytes !== undefined, `${key} is not there`);
  const decoded = decodeRecord(bytes);
  check(decoded.ok && decoded.record.key === key, `${key} does not decode`);
  const expected = payloadOf(key, payloadBytes);
  check(
    decoded.record.payload.every((byte, i) => byte === expected[i]),
    `${key} has another payload`,
  );
}

async function maintainUntilIdle(backend: Backend): Promise<void> {
  for (let step = 0; step < 100; step++) if (!(await backend.maintain()).more) return;
  throw new Error("maintain() never comes to rest");
}

const SMALL = chain(1, 6);
const LARGE = chain(2, 5, { payloadBytes: 3000 });

export const conformanceCases: readonly Case[] = [
  {
    name: "a fresh place is empty",
    async run(fixture) {
      const { backend, keys } = await listed(fixture);
      same(keys, [], "keys");
      same((await backend.usage()).bytesOnMedium, 0, "bytes");
      await backend.close();
    },
  },
  {
    name: "what is appended is told and read back",
    async run(fixture) {
      const backend = await opened(fixture);
      const { added } = await backend.append(encoded(SMALL));
      same(
        added.map((info) => info.key),
        keysOf(SMALL),
        "added",
      );
      same(
        added.map((info) => info.blockIndex),
        [0, 1, 2, 3, 4, 5],
        "block indices",
      );
      for (const key of keysOf(SMALL)) await readsWell(backend, key);
      await backend.close();
    },
  },
  {
    name: "an absent key reads as undefined",
    async run(fixture) {
      const backend = await opened(fixture);
      same(await backend.read(keyOf(SMALL[0]!)), undefined, "read");
      await backend.close();
    },
  },
  {
    name: "records larger than a segment are kept whole",
    async run(fixture) {
      const backend = await opened(fixture);
      await backend.append(encoded([...SMALL, ...LARGE]));
      for (const key of keysOf(LARGE)) await readsWell(backend, key, 3000);
      for (const key of keysOf(SMALL)) await readsWell(backend, key);
      await backend.close();
    },
  },
  {
    name: "removed records are gone, others stay, and removing twice is fine",
    async run(fixture) {
      const backend = await opened(fixture);
      await backend.append(encoded(SMALL));
      const [first, second] = keysOf(SMALL) as [Key, Key];
      same((await backend.remove([first, first])).removed, [first], "removed");
      same((await backend.remove([first])).removed, [], "removed again");
      same(await backend.read(first), undefined, "read");
      await readsWell(backend, second);
      await backend.close();
    },
  },
  {
    name: "a removed record can be stored again",
    async run(fixture) {
      const backend = await opened(fixture);
      const key = keyOf(SMALL[0]!);
      await backend.append(encoded(SMALL));
      await backend.remove([key]);
      same(
        (await backend.append(encoded([SMALL[0]!]))).added.map((info) => info.key),
        [key],
        "added",
      );
      await readsWell(backend, key);
      await backend.close();
    },
  },
  {
    name: "maintenance keeps what is wanted and gives back the room of the rest",
    async run(fixture) {
      const backend = await opened(fixture);
      await backend.append(encoded([...LARGE, ...SMALL]));
      const before = (await backend.usage()).bytesOnMedium;
      await backend.remove(keysOf(LARGE));
      await maintainUntilIdle(backend);
      const after = (await backend.usage()).bytesOnMedium;
      check(after < before / 2, `${after} bytes of ${before} are left`);
      for (const key of keysOf(SMALL)) await readsWell(backend, key);
      await backend.close();
    },
  },
  {
    name: "emptied, it holds nothing after maintenance",
    async run(fixture) {
      const backend = await opened(fixture);
      await backend.append(encoded(SMALL));
      await backend.remove(keysOf(SMALL));
      await maintainUntilIdle(backend);
      await maintainUntilIdle(backend);
      same((await backend.usage()).bytesOnMedium, 0, "bytes");
      await backend.close();
    },
  },
  {
    name: "reclaim frees room without needing any",
    async run(fixture) {
      const backend = await opened(fixture);
      await backend.append(encoded(LARGE));
      const before = (await backend.usage()).bytesOnMedium;
      const { removed } = await backend.reclaim(3000);
      check(removed.length > 0, "nothing was dropped");
      check((await backend.usage()).bytesOnMedium <= before - 3000, "too little was freed");
      await backend.append(encoded(SMALL));
      for (const key of keysOf(SMALL)) await readsWell(backend, key);
      await backend.close();
    },
  },
  {
    name: "calls at the same time do not disturb each other",
    async run(fixture) {
      const backend = await opened(fixture);
      const chains = [11, 12, 13, 14].map((seed) => chain(seed, 4));
      await Promise.all([
        ...chains.map((drafts) => backend.append(encoded(drafts))),
        backend.refresh(),
        backend.maintain(),
      ]);
      await Promise.all(chains.flatMap(keysOf).map((key) => readsWell(backend, key)));
      await backend.close();
    },
  },
  {
    name: "closing twice is fine",
    async run(fixture) {
      const backend = await opened(fixture);
      await backend.close();
      await backend.close();
    },
  },
  {
    name: "reopened, it lists and reads what was stored, and nothing that was removed",
    needs: "persistent",
    async run(fixture) {
      const first = await opened(fixture);
      await first.append(encoded([...SMALL, ...LARGE]));
      await first.remove([keyOf(SMALL[5]!), keyOf(LARGE[4]!)]);
      await first.close();
      const { backend, keys } = await listed(fixture);
      const expected = [...keysOf(SMALL.slice(0, 5)), ...keysOf(LARGE.slice(0, 4))].sort();
      same(keys, expected, "keys");
      for (const key of keysOf(SMALL.slice(0, 5))) await readsWell(backend, key);
      await backend.close();
    },
  },
  {
    name: "the list tells namespace, parent, expiry and encoding",
    needs: "persistent",
    async run(fixture) {
      const drafts = chain(7, 2, { namespace: "alice", expiresAtMs: 123456789 });
      const first = await opened(fixture);
      const told = (await first.append(encoded(drafts))).added;
      await first.close();
      const second = await fixture.make();
      const found = (await second.open()).added;
      found.sort((a, b) => a.blockIndex - b.blockIndex);
      same(found, told, "infos");
      await second.close();
    },
  },
  {
    name: "many short lives do not leave many segments",
    needs: "persistent",
    async run(fixture) {
      for (let life = 0; life < 20; life++) {
        const backend = await opened(fixture);
        await backend.append(encoded(chain(100 + life, 1)));
        await backend.close();
      }
      const { backend, keys } = await listed(fixture);
      same(keys.length, 20, "records");
      await maintainUntilIdle(backend);
      const { segments } = await backend.usage();
      check(segments <= 12, `${segments} segments`);
      for (let life = 0; life < 20; life++) await readsWell(backend, keyOf(chain(100 + life, 1)[0]!));
      await backend.close();
    },
  },
  {
    name: "two writers see each other's records after a refresh, while both are open",
    needs: "persistent",
    async run(fixture) {
      const [a, b] = [await opened(fixture), await opened(fixture)];
      await a.append(encoded(SMALL));
      same((await b.refresh()).added.map((info) => info.key).sort(), keysOf(SMALL).sort(), "news");
      for (const key of keysOf(SMALL)) await readsWell(b, key);
      await b.append(encoded(LARGE));
      await a.append(encoded(chain(3, 2)));
      await a.refresh();
      for (const key of keysOf(LARGE)) await readsWell(a, key, 3000);
      await b.refresh();
      for (const key of keysOf(chain(3, 2))) await readsWell(b, key);
      await a.close();
      await b.close();
    },
  },
  {
    name: "one writer removes what the other wrote",
    needs: "persistent",
    async run(fixture) {
      const [a, b] = [await opened(fixture), await opened(fixture)];
      await a.append(encoded(SMALL));
      await b.refresh();
      await b.remove(keysOf(SMALL).slice(0, 3));
      same((await a.refresh()).removed.sort(), keysOf(SMALL).slice(0, 3).sort(), "news");
      same(await a.read(keyOf(SMALL[0]!)), undefined, "read");
      await a.close();
      await b.close();
      const { backend, keys } = await listed(fixture);
      same(keys, keysOf(SMALL).slice(3).sort(), "after reopening");
      await backend.close();
    },
  },
  {
    name: "both writers may store the same record; it is gone only when both copies are",
    needs: "persistent",
    async run(fixture) {
      const [a, b] = [await opened(fixture), await opened(fixture)];
      await a.append(encoded(SMALL));
      await b.append(encoded(SMALL));
      await a.close();
      await b.refresh();
      for (const key of keysOf(SMALL)) await readsWell(b, key);
      await b.remove(keysOf(SMALL));
      await b.close();
      const { backend, keys } = await listed(fixture);
      same(keys, [], "keys");
      await backend.close();
    },
  },
  {
    name: "records that another writer's compaction moves stay readable",
    needs: "persistent",
    async run(fixture) {
      const first = await opened(fixture);
      await first.append(encoded([...LARGE, ...SMALL]));
      await first.close();
      const [reader, mover] = [await opened(fixture), await opened(fixture)];
      await mover.remove(keysOf(LARGE));
      await maintainUntilIdle(mover);
      for (const key of keysOf(SMALL)) await readsWell(reader, key);
      await mover.close();
      await reader.close();
    },
  },
  {
    name: "what a closed writer left can be emptied by another",
    needs: "persistent",
    async run(fixture) {
      const first = await opened(fixture);
      await first.append(encoded([...LARGE, ...SMALL]));
      await first.close();
      const second = await opened(fixture);
      await second.remove([...keysOf(LARGE), ...keysOf(SMALL)]);
      await maintainUntilIdle(second);
      await maintainUntilIdle(second);
      same((await second.usage()).bytesOnMedium, 0, "bytes");
      await second.close();
    },
  },
];

export function casesFor(traits: Traits): Case[] {
  return conformanceCases.filter(({ needs }) => needs === undefined || traits[needs]);
}

/** Segments small enough that a handful of test records fills several. */
export const TEST_SEGMENT_BYTES = 4096;

export interface SuiteResult {
  passed: number;
  failed: number;
  failures: string[];
}

/** Runs the suite without a test framework. */
export async function runCases(
  label: string,
  traits: Traits,
  makeFixture: () => Promise<Fixture>,
): Promise<SuiteResult> {
  const result: SuiteResult = { passed: 0, failed: 0, failures: [] };
  for (const testCase of casesFor(traits)) {
    const fixture = await makeFixture();
    try {
      await testCase.run(fixture);
      result.passed++;
    } catch (error) {
      result.failed++;
      result.failures.push(`${label}: ${testCase.name}: ${String(error)}`);
    } finally {
      await fixture.cleanUp();
    }
  }
  return result;
}
