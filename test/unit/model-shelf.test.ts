/** Several models by name, without engines: which is loaded, which is ended, and what happens if none can make room. */
import { expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { ModelShelf } from "../../src/serve/model-shelf.ts";

/** Models of ten bytes each. */
function shelfOf(names: readonly string[], memoryBytes?: number, roomFor = Infinity) {
  const told: string[] = [];
  const engines = new Map<string, { state: string }>();
  let loaded = 0;
  const load = (name: string) => (): Promise<Engine> => {
    if (loaded >= roomFor) return Promise.reject(new TidepoolError("out_of_memory", "the GPU is full"));
    loaded++;
    told.push(`+${name}`);
    const memory = { weightBytes: 4, kvPoolBytes: 3, statePoolBytes: 2, workspaceBytes: 1 };
    const engine = {
      ...{ state: "ready", info: { memory } },
      close: () => (loaded--, told.push(`-${name}`), Promise.resolve()),
    };
    engines.set(name, engine);
    return Promise.resolve(engine as unknown as Engine);
  };
  const shelf = new ModelShelf(
    names.map((name) => ({ name, load: load(name) })),
    memoryBytes,
  );
  const use = async (name?: string) => (await shelf.open(name)).release();
  return { shelf, told, engines, use };
}

test("a model is loaded once, also if it is asked for twice at once, and none unasked", async () => {
  const { shelf, told, use } = shelfOf(["a", "b"]);
  await Promise.all([use("b"), use("b"), use()]);
  expect(told.sort()).toEqual(["+a", "+b"]);
  await expect(shelf.open("c")).rejects.toMatchObject({ code: "not_found" });
});

test("beyond its memory the one that was used least recently is ended, never one in use", async () => {
  const { shelf, told, use } = shelfOf(["a", "b", "c"], 20);
  await use("a");
  await use("b");
  const held = await shelf.open("a");
  await use("c");
  expect(told).toEqual(["+a", "+b", "+c", "-b"]);
  const other = await shelf.open("c");
  await expect(shelf.open("b")).rejects.toMatchObject({ code: "rejected", details: { retryAfterMs: 5000 } });
  expect(shelf.loaded.map(({ name }) => name)).toEqual(["a", "c"]);
  held.release();
  other.release();
  await use("b");
  expect(shelf.loaded.map(({ name }) => name)).toEqual(["b", "c"]);
});

test("a model that does not fit beside the others takes the place of one", async () => {
  const { told, use, shelf } = shelfOf(["a", "b"], undefined, 1);
  await use("a");
  await use("b");
  expect(told).toEqual(["+a", "-a", "+b"]);
  const held = await shelf.open("b");
  await expect(shelf.open("a")).rejects.toMatchObject({ code: "rejected" });
  held.release();
  await shelf.close();
  expect(shelf.loaded).toEqual([]);
});

test("an engine that has failed is loaded again", async () => {
  const { told, use, engines } = shelfOf(["a"]);
  await use("a");
  engines.get("a")!.state = "failed";
  await use("a");
  expect(told).toEqual(["+a", "-a", "+a"]);
});
