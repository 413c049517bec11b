/** What the experts lab makes of the engine's events: where experts are, what each step did, and how much it remembers. */
import { describe, expect, test } from "vitest";
import { ABSENT, ARRIVING, ExpertHistory, MAX_STEPS, RESIDENT } from "../../demo/experts/history.ts";
import type { ExpertEvent } from "../../src/index.ts";

type Fetched = Partial<Extract<ExpertEvent, { kind: "fetched" }>>;

const timeMs = 0;
const fetched = (layer: number, expert: number, more: Fetched = {}): ExpertEvent => ({
  ...{ kind: "fetched", timeMs, layer, expert, matrix: 0, slot: 0, cause: "demand", isWhole: true },
  ...{ from: "file", ms: 1, ...more },
});
const chose = (layer: number, resident: number[], missing: number[]): ExpertEvent => ({
  ...{ kind: "chose", timeMs, layer, resident, missing, low: [], guessed: false },
});
const step = (ms = 5): ExpertEvent => ({ kind: "step", timeMs, phase: "decode", rows: 1, ms });

describe("the history of a lane", () => {
  test("follows experts as they arrive and leave, and keeps what each step left", () => {
    const history = new ExpertHistory({ layers: 2, experts: 3 });
    history.take(
      [
        chose(0, [], [0, 1]),
        fetched(0, 0),
        fetched(0, 1),
        { kind: "stalled", timeMs, layer: 0, ms: 3 },
        { kind: "predicted", timeMs, layer: 1, madeBehind: 0, experts: [2] },
        fetched(1, 2, { cause: "predicted" }),
        chose(1, [2], []),
        step(),
        fetched(1, 0, { isWhole: false, evicted: { layer: 0, expert: 1 } }),
      ],
      0,
      [[0], [2]],
    );
    expect(history.steps).toHaveLength(1);
    expect(history.steps[0]).toMatchObject({
      ...{ phase: "decode", hits: 1, missing: 2, demanded: 2, ahead: 1, stallMs: 3, ms: 5 },
      chosen: [[0, 1], [2]],
    });
    expect([...history.steps[0]!.places]).toEqual([RESIDENT, RESIDENT, ABSENT, ABSENT, ABSENT, RESIDENT]);
    expect([...history.steps[0]!.predicted]).toEqual([0, 0, 0, 0, 0, 1]);
    // Behind the last step what is there by now is shown.
    expect([...history.seen(0).places]).toEqual([RESIDENT, ABSENT, ABSENT, ARRIVING, ABSENT, RESIDENT]);
    history.take([fetched(1, 0, { matrix: 1 }), chose(0, [0], []), step()], 0, [[0], [0, 2]]);
    expect([...history.seen(0).places]).toEqual([...history.steps[0]!.places]);
    expect([...history.seen(1).places]).toEqual([RESIDENT, ABSENT, ABSENT, RESIDENT, ABSENT, RESIDENT]);
    expect(history.steps[1]).toMatchObject({ hits: 1, missing: 0, demanded: 1, ahead: 0, stallMs: 0 });
  });

  test("believes the engine where events were lost, and says how many were", () => {
    const history = new ExpertHistory({ layers: 1, experts: 4 });
    history.take([fetched(0, 3)], 7, [[1, 2]]);
    expect([...history.places]).toEqual([ABSENT, RESIDENT, RESIDENT, ABSENT]);
    expect(history.lost).toBe(7);
  });

  test("forgets the oldest steps beyond its bound", () => {
    const history = new ExpertHistory({ layers: 1, experts: 1 });
    history.take(
      Array.from({ length: MAX_STEPS + 5 }, (_, i) => step(i)),
      0,
      [[]],
    );
    expect([history.steps.length, history.forgotten, history.steps[0]!.ms]).toEqual([MAX_STEPS, 5, 5]);
  });
});
