/**
 * One chart: token hit rate against capacity, a line for each policy, as SVG text. Written by hand because the plotting
 * libraries need a DOM or weigh more than the engine for this one picture. It draws nothing else.
 */
import type { PolicyName } from "../cache/policy/policy.ts";
import type { ReplayRow } from "./replay.ts";

const width = 720;
const height = 420;
const frame = { left: 60, right: 590, top: 40, bottom: 365 };
/** Told apart by colour-blind readers too (Okabe and Ito's palette), and by their dashes. */
const styles: Record<PolicyName, { colour: string; dash: string; width: number }> = {
  lru: { colour: "#0072b2", dash: "", width: 2 },
  lfu: { colour: "#e69f00", dash: "7 3", width: 2 },
  "length-aware": { colour: "#cc79a7", dash: "2 3", width: 2 },
  vllm: { colour: "#56b4e9", dash: "9 3 2 3", width: 2 },
  sglang: { colour: "#d55e00", dash: "5 2", width: 2 },
  marconi: { colour: "#009e73", dash: "", width: 3 },
  offline: { colour: "#000000", dash: "1 4", width: 2 },
};

/**
 * Draws the token hit rate against capacity, one line for each policy, and returns the text of an SVG file.
 *
 * @example
 * ```ts
 * const capacities = parseCapacities("blocks:200,blocks:800,inf");
 * const rows = capacities.flatMap((capacity) =>
 *   parsePolicies("lru,marconi").map((policy) => replay(trace, { policy, capacity, cost })),
 * );
 * console.log(plotRows("chats", rows).startsWith("<svg")); // true
 * ```
 */
export function plotRows(title: string, rows: readonly ReplayRow[]): string {
  const capacities = [...new Map(rows.map((row) => [String(row.capacity), row.capacity])).values()];
  const xOf = new Map(capacities.map((capacity, i) => [String(capacity), xAt(i, capacities.length)]));
  const policies = [...new Set(rows.map((row) => row.policy))];
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    `<text x="${frame.left}" y="22" font-size="14">${escape(title)}</text>`,
    ...yAxis(),
    ...capacities.map((capacity) => tick(xOf.get(String(capacity))!, capacityLabel(capacity))),
    `<text x="${(frame.left + frame.right) / 2}" y="${height - 12}" text-anchor="middle">capacity</text>`,
    `<text transform="translate(14 ${(frame.top + frame.bottom) / 2}) rotate(-90)" text-anchor="middle">prompt tokens reused</text>`,
    ...policies.flatMap((policy, i) =>
      line(
        rows.filter((row) => row.policy === policy),
        i,
        xOf,
      ),
    ),
    "</svg>",
  ];
  return parts.join("\n") + "\n";
}

/** Capacities at equal distances, in the order given: they often span orders of magnitude, and may end with "inf". */
function xAt(index: number, count: number): number {
  const share = count === 1 ? 0.5 : index / (count - 1);
  return Math.round(frame.left + 20 + share * (frame.right - frame.left - 40));
}

function yAt(rate: number): number {
  return Math.round((frame.bottom - rate * (frame.bottom - frame.top)) * 10) / 10;
}

function yAxis(): string[] {
  return [0, 0.2, 0.4, 0.6, 0.8, 1].flatMap((rate) => [
    `<line x1="${frame.left}" x2="${frame.right}" y1="${yAt(rate)}" y2="${yAt(rate)}" stroke="#ddd"/>`,
    `<text x="${frame.left - 8}" y="${yAt(rate) + 4}" text-anchor="end">${Math.round(rate * 100)}%</text>`,
  ]);
}

function tick(x: number, label: string): string {
  return `<text x="${x}" y="${frame.bottom + 18}" text-anchor="middle">${escape(label)}</text>`;
}

function line(rows: readonly ReplayRow[], index: number, xOf: ReadonlyMap<string, number>): string[] {
  const points = rows.map((row) => ({ x: xOf.get(String(row.capacity))!, y: yAt(row.tokenHitRate), row }));
  const { colour, dash, width: strokeWidth } = styles[rows[0]!.policy];
  const stroke = `stroke="${colour}" stroke-width="${strokeWidth}" stroke-dasharray="${dash}"`;
  const legendY = frame.top + 10 + index * 20;
  return [
    `<polyline fill="none" ${stroke} points="${points.map(({ x, y }) => `${x},${y}`).join(" ")}"/>`,
    ...points.map(({ x, y, row }) => {
      const hint = `${row.policy}, ${capacityLabel(row.capacity)}: ${(row.tokenHitRate * 100).toFixed(2)}%`;
      return `<circle cx="${x}" cy="${y}" r="3" fill="${colour}"><title>${hint}</title></circle>`;
    }),
    `<line x1="${frame.right + 12}" x2="${frame.right + 40}" y1="${legendY}" y2="${legendY}" ${stroke}/>`,
    `<text x="${frame.right + 46}" y="${legendY + 4}">${rows[0]!.policy}</text>`,
  ];
}

/**
 * A capacity for people to read: bytes become GB (1e9 bytes), text stays unchanged.
 *
 * @example
 * ```ts
 * console.log(capacityLabel(40e9), capacityLabel("blocks:1000")); // 40 GB blocks:1000
 * ```
 */
export function capacityLabel(capacity: number | string): string {
  return typeof capacity === "number" ? `${Number((capacity / 1e9).toPrecision(4))} GB` : capacity;
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
