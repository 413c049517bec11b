/**
 * A model that answers while the rest of its file is still on the way: the check of the whole comes later, and ends the
 * engine if the file is damaged. The file is a shipped model with bytes behind its last tensor, which no load reads.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { actAsHub, serveUnreliably, type UnreliableServer } from "../support/unreliable-server.ts";

const LIMIT_MS = 120_000;
const MODEL = "demo/models/tide-dense.gguf";
const TAIL_BYTES = 12_000_000;
/** Of one connection: the tail takes much longer than a load. */
const SLOW = 400_000;
const CASES = 2;
const present = existsSync(MODEL);
if (!present) console.warn(`SKIPPED ${CASES} cases of late checks: ${MODEL} is absent`);

const folder = mkdtempSync(join(tmpdir(), "tidepool-late-"));
let hub: UnreliableServer;
let store: UnreliableServer;
let whole: Uint8Array;

beforeAll(async () => {
  hub = await serveUnreliably();
  store = await serveUnreliably();
  if (!present) return;
  whole = new Uint8Array([...readFileSync(MODEL), ...new Uint8Array(TAIL_BYTES)]);
  actAsHub(hub, store, "tide/late", { "model.gguf": whole });
});

afterAll(async () => {
  await hub.close();
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Library {
  Engine: typeof import("../../src/index.ts").Engine;
}

async function load(onChange: () => void) {
  const { Engine } = (await import(pathToFileURL("dist/lib/index.js").href)) as Library;
  const options = { hub: { baseUrl: hub.address }, models: { directory: folder }, onChange };
  return Engine.load("tide/late", options);
}

/** Whether a note of the folder says that a file is complete; payloads are larger than any note. */
function isKeptWhole(): boolean {
  const notes = readdirSync(folder).filter((name) => !name.endsWith(".bin"));
  return notes.some((name) => readFileSync(join(folder, name)).includes('"isComplete":true'));
}

describe.skipIf(!present)("a file that is checked late", { timeout: LIMIT_MS }, () => {
  it("ends the engine with both hashes when it turns out to be damaged, after it has answered", async () => {
    const damaged = Uint8Array.from(whole);
    damaged[whole.length - 5] = 1;
    store.behave = () => ({ bytes: damaged, etag: '"same"' });
    store.bytesPerSecond = SLOW;
    let changed = (): void => {};
    const failed = new Promise<void>((resolve) => (changed = resolve));
    const engine = await load(() => engine.state === "failed" && changed());
    const { text } = await engine.generate("The tide was low and", { maxTokens: 8 }).result();
    expect(text).not.toBe("");
    expect(store.bytesSent).toBeLessThan(whole.length);
    expect(engine.state).toBe("ready");
    store.bytesPerSecond = 0;
    await failed;
    expect(engine.failure?.code).toBe("source");
    expect(engine.failure?.message).toMatch(/is damaged: its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}/);
    await engine.close();
  });

  it("is kept whole when it is right, and needs no network at the next load", async () => {
    store.behave = () => undefined;
    store.bytesPerSecond = SLOW;
    const first = await load(() => {});
    expect(store.bytesSent).toBeLessThan(2 * whole.length);
    store.bytesPerSecond = 0;
    await first.close(); // a download that is cut goes on at the next load
    const second = await load(() => {});
    await second.generate("The tide was low and", { maxTokens: 8 }).result();
    await expect.poll(isKeptWhole, { timeout: LIMIT_MS / 2 }).toBe(true);
    await second.close();
    await hub.pause();
    await store.pause();
    const third = await load(() => {});
    expect(third.state).toBe("ready");
    await third.close();
    await hub.resume();
    await store.resume();
  });
});
