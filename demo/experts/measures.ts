/** What is measured of a run, in words, for the lanes and for the table that compares them. */
import type { ExpertFigures, GenerationResult } from "../../src/index.ts";
import { bytesText, numberText } from "../page/format.ts";

export interface Outcome {
  figures: ExpertFigures;
  /** Absent while the run goes on. */
  result?: GenerationResult | undefined;
}

export interface Measure {
  name: string;
  of(outcome: Outcome): string;
}

const percent = (share: number | undefined): string =>
  share === undefined ? "–" : `${(100 * share).toFixed(1)}%`;

const msText = (ms: number): string =>
  ms < 10_000 ? `${ms.toFixed(ms < 100 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(1)} s`;

const ofResult =
  (words: (result: GenerationResult) => string) =>
  ({ result }: Outcome): string =>
    result ? words(result) : "–";

export const MEASURES: readonly Measure[] = [
  { name: "Tokens per second", of: ofResult(({ timing }) => timing.decodeTokensPerSecond.toFixed(1)) },
  { name: "First token after", of: ofResult(({ timing }) => msText(timing.ttftMs)) },
  { name: "Chosen experts that were there", of: ({ figures: { rates } }) => percent(rates.hits) },
  {
    name: "Waited for experts",
    of: ({ figures: { waits } }) => `${msText(waits.stallMs)}, ${numberText(waits.stalls)} times`,
  },
  {
    name: "Computed with low-bit copies",
    of: ({ figures: { copies } }) =>
      copies
        ? `${percent(copies.choicesLow / Math.max(1, copies.choices))} of the choices, ${percent(copies.weightLow / (copies.weight || 1))} of their weight`
        : "–",
  },
  { name: "Read because a layer waited", of: ({ figures: { cache } }) => bytesText(cache.bytesDemand) },
  { name: "Read ahead and used", of: ({ figures: { cache } }) => bytesText(cache.bytesUsed) },
  {
    name: "Read ahead and not used",
    of: ({ figures: { cache } }) => bytesText(cache.bytesWasted + cache.bytesWaiting),
  },
  { name: "Predictions that were right", of: ({ figures: { rates } }) => percent(rates.accuracy) },
  { name: "Predicted experts there in time", of: ({ figures: { rates } }) => percent(rates.fetchRate) },
  { name: "Right and in time (GoodPred)", of: ({ figures: { rates } }) => percent(rates.goodPred) },
];

/** A layer's share of chosen experts that were there. */
export function hitsOfLayer({ cache }: ExpertFigures, layer: number): string {
  const { hits, uses } = cache.layers[layer] ?? { hits: 0, uses: 0 };
  return percent(uses === 0 ? undefined : hits / uses);
}
