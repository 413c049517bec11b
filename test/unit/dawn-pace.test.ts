/** How often Dawn may look for answers: seldom enough to leave a core and the garbage collector alone, soon enough for a step. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { paceDawn } from "../../src/gpu/dawn-pace.ts";

const plain = globalThis.setImmediate;
let quietMs = 0;

beforeEach(() => {
  vi.spyOn(Atomics, "wait");
  vi.spyOn(globalThis, "setTimeout");
  paceDawn(() => quietMs);
});

afterEach(() => {
  vi.restoreAllMocks();
  globalThis.setImmediate = plain;
});

/** So many looks, of one who looks again at once, as Dawn does while anything is awaited of it. */
function look(times: number, as: (again: () => void) => () => void): Promise<void> {
  return new Promise((done) => {
    const again = (): void => (--times > 0 ? void setImmediate(as(again)) : done());
    setImmediate(as(again));
  });
}

/** A function of C++ has no name, and no text. */
const asDawns = (again: () => void): (() => void) =>
  Object.defineProperty(again.bind(undefined), "name", { value: "" });

test("the thread sleeps for a tenth of a millisecond before each look", async () => {
  quietMs = 0;
  const started = performance.now();
  await look(50, asDawns);
  expect(performance.now() - started).toBeGreaterThan(50 * 0.1);
  expect(vi.mocked(Atomics.wait)).toHaveBeenCalledTimes(50);
  expect(vi.mocked(setTimeout)).not.toHaveBeenCalled();
});

test("it rests for a whole one once nothing has come for long", async () => {
  quietMs = 101;
  await look(5, asDawns);
  expect(vi.mocked(Atomics.wait)).not.toHaveBeenCalled();
  expect(vi.mocked(setTimeout)).toHaveBeenCalledTimes(5);
});

test("nobody else waits", async () => {
  quietMs = 0;
  await look(50, (again) => () => again());
  expect(vi.mocked(Atomics.wait)).not.toHaveBeenCalled();
});
