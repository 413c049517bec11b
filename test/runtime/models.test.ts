/** `tidepool models` and loading by Hub id, as a person types them, in Node and in Deno, on a Hub of our own. */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findDeno } from "../support/machine.ts";
import { actAsHub, serveUnreliably, type UnreliableServer } from "../support/unreliable-server.ts";

const LIMIT_MS = 240_000;
const MODEL = "demo/models/tide-dense.gguf";
const CASES = 3;
const present = existsSync(MODEL);
if (!present) console.warn(`SKIPPED ${CASES} cases of the models command: ${MODEL} is absent`);

const folder = mkdtempSync(join(tmpdir(), "tidepool-models-"));
let hub: UnreliableServer;
let store: UnreliableServer;

beforeAll(async () => {
  hub = await serveUnreliably();
  store = await serveUnreliably();
  if (present) actAsHub(hub, store, "tide/dense", { "model.gguf": readFileSync(MODEL) }, { token: "secret" });
});

afterAll(async () => {
  await hub.close();
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Ended {
  code: number;
  out: string;
  err: string;
}

function run(program: string, args: string[]): Promise<Ended> {
  const env = {
    ...process.env,
    TIDEPOOL_HUB: hub.address,
    TIDEPOOL_HUB_TOKEN: "secret",
    TIDEPOOL_MODELS: folder,
  };
  return new Promise((resolve) => {
    execFile(program, args, { timeout: LIMIT_MS, env }, (error, out, err) =>
      resolve({ code: typeof error?.code === "number" ? error.code : error ? 1 : 0, out, err }),
    );
  });
}

const tidepool = (...args: string[]): Promise<Ended> => run(process.execPath, ["dist/lib/cli.js", ...args]);

describe.skipIf(!present)("models by name", { timeout: LIMIT_MS }, () => {
  it("fetches, lists, checks, runs without a network, and removes", async () => {
    const bytes = readFileSync(MODEL).length;
    const pulled = await tidepool("models", "pull", "tide/dense", "--json");
    expect(pulled.err).toBe("");
    expect(JSON.parse(pulled.out)).toEqual({ name: "tide/dense", sizeBytes: bytes, receivedBytes: bytes });
    expect((await tidepool("models", "ls")).out).toBe(
      `tide/dense  ${bytes} bytes\n1 models, ${bytes} bytes\n`,
    );
    expect((await tidepool("models", "verify")).out).toBe("1 files checked, 0 bad\n");
    await hub.pause();
    const ran = await tidepool("run", "tide/dense", "The harbour was quiet and", "--max-tokens", "4");
    await hub.resume();
    expect([ran.code, ran.out.trim().length > 0]).toEqual([0, true]);
    expect((await tidepool("models", "rm", "tide/dense")).out).toBe(`tide/dense: ${bytes} bytes freed\n`);
    const again = await tidepool("models", "rm", "tide/dense");
    expect([again.code, again.err]).toEqual([1, `tidepool: tide/dense is not kept in ${folder}\n`]);
  });

  it("says what is damaged, and fails", async () => {
    await tidepool("models", "pull", "tide/dense");
    const payload = readdirSync(folder).find((name) => name.endsWith(".bin")) as string;
    const bytes = readFileSync(join(folder, payload));
    bytes[100_000] = (bytes[100_000] as number) ^ 1;
    writeFileSync(join(folder, payload), bytes);
    const { code, err } = await tidepool("models", "verify", "tide/dense");
    expect(code).toBe(1);
    expect(err).toMatch(
      /1 files checked, 1 bad; bad files were removed\ntide\/dense model.gguf: its SHA-256 is [0-9a-f]{64}/,
    );
    expect((await tidepool("models", "ls", "--json")).out).toBe("[]\n");
  });

  it("shares its folder with Deno", async () => {
    const deno = await findDeno();
    const inDeno = (...args: string[]): Promise<Ended> =>
      run(deno, ["run", "-A", "dist/lib/cli.js", ...args]);
    const pulled = await inDeno("models", "pull", "tide/dense", "--json");
    expect(JSON.parse(pulled.out)).toMatchObject({ name: "tide/dense" });
    expect((await tidepool("models", "verify")).out).toBe("1 files checked, 0 bad\n");
    expect((await inDeno("models", "rm", "tide/dense")).code).toBe(0);
  });
});
