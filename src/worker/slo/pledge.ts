/** What one request was promised when it was accepted, and the times that it had since then. It decides nothing. */
import { RequestTimes, keeps } from "../../schedule/slo/goodput.ts";
import type { Objectives, Priority } from "../../schedule/slo/objectives.ts";
import type { Prediction } from "../../schedule/slo/prediction.ts";
import type { Pace } from "../../wire/protocol.ts";

/** A request as it asks for time. */
export interface Arrival {
  objectives: Objectives;
  priority: Priority;
  arrivedMs: number;
  /** Of its answer, if it was said. */
  newTokens: number | undefined;
}

export class Pledge {
  readonly arrival: Arrival;
  readonly times: RequestTimes;
  /** From arrival; undefined for a request that is nobody's, or that another engine accepted. */
  readonly predicted: Pick<Prediction, "ttftMs" | "tbtMs"> | undefined;

  constructor(arrival: Arrival, predicted?: Pledge["predicted"]) {
    this.arrival = arrival;
    this.times = new RequestTimes(arrival.arrivedMs);
    this.predicted = predicted;
  }

  get asksForTime(): boolean {
    return Object.values(this.arrival.objectives).some((ms) => ms !== undefined);
  }

  /** What is told of it in the end. */
  pace(isAborted: boolean): Pace | undefined {
    const { ttftMs, tbtMs = 0, tbtP99Ms = 0 } = this.times.figures;
    if (ttftMs === undefined) return undefined;
    const { predicted } = this;
    const kept = keeps(this.times.figures, this.arrival.objectives);
    return {
      ...(predicted && { predicted: { ttftMs: predicted.ttftMs, tbtMs: predicted.tbtMs } }),
      ...{ ttftMs, tbtMs, tbtP99Ms },
      ...(this.asksForTime && !isAborted && { kept }),
    };
  }
}
