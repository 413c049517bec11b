/**
 * What a read-back costs: `latencyMs` by itself, and `layerMs` for each layer that is computed before it. Measured while a model
 * runs: the latency of a read-back with nothing to compute, once, then a line through what steps took. It decides nothing.
 */
import { systemClock } from "../../base.ts";
import type { CommandRecorder } from "../../gpu/recorder.ts";

/** Read-backs with nothing to compute; the fastest counts, as much as so many of those that steps make. */
const PROBES = 3;
const PROBE_WEIGHT = 8;

/** What older read-backs weigh when another has been measured. */
const FADE = 0.97;

const LEAST_LAYER_MS = 0.001;

export class ReadPace {
  private probeMs: number | undefined;
  /** Weighted sums: of one, layers, their squares, times, and layers times times. */
  private sums = { one: 0, n: 0, nn: 0, y: 0, ny: 0 };

  /** @param probeMs what a read-back with nothing to compute takes; default: it is measured */
  constructor(probeMs?: number) {
    this.probeMs = probeMs;
  }

  /** Before the first step. */
  async probe(recorder: CommandRecorder): Promise<void> {
    if (this.probeMs !== undefined) return;
    let least = Infinity;
    for (let i = 0; i < PROBES; i++) {
      const started = systemClock.nowMs();
      await recorder.read([]);
      least = Math.min(least, systemClock.nowMs() - started);
    }
    this.probeMs = least;
  }

  /** A read-back behind so many layers took this long. */
  note(layers: number, ms: number): void {
    const { one, n, nn, y, ny } = this.sums;
    this.sums = {
      ...{ one: FADE * one + 1, n: FADE * n + layers, nn: FADE * nn + layers * layers },
      ...{ y: FADE * y + ms, ny: FADE * ny + layers * ms },
    };
  }

  /** How long a read-back behind so many layers will take. */
  ms(layers: number): number {
    const { latencyMs, layerMs } = this.line;
    return latencyMs + layers * layerMs;
  }

  get line(): { latencyMs: number; layerMs: number } {
    const probeMs = this.probeMs ?? 0;
    const { n, nn, ny } = this.sums;
    const one = this.sums.one + PROBE_WEIGHT;
    const y = this.sums.y + PROBE_WEIGHT * probeMs;
    const determinant = one * nn - n * n;
    if (determinant <= 0) return { latencyMs: probeMs, layerMs: Math.max(probeMs, LEAST_LAYER_MS) };
    const layerMs = Math.max(LEAST_LAYER_MS, (one * ny - n * y) / determinant);
    return { latencyMs: Math.max(0, (y - layerMs * n) / one), layerMs };
  }
}
