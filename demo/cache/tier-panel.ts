/** One tier of the cache: what it holds, and its budget as a bar that can be moved where the engine can change it. */
import type { CacheStats } from "../../src/index.ts";
import { el } from "../page/dom.ts";
import { bytesText, numberText } from "../page/format.ts";
import { budgetBar } from "./budget-bar.ts";
import type { Place } from "./places.ts";

/** Tiers whose budget can be set here. */
const SETTABLE = ["ram", "disk"];

export interface TierPanel {
  element: HTMLElement;
  /** @param poolBytes what the GPU holds for keys and values. */
  show(stats: CacheStats, poolBytes: number): void;
}

/** @param move is called with the bytes that the user has chosen. */
export function tierPanel({ id, name, what }: Place, move: (bytes: number) => void): TierPanel {
  const amount = el("p", { class: "amount" });
  const detail = el("p", { class: "note" });
  const fill = el("span", { class: `fill from-${id}` });
  const meter = el("div", { class: "meter", role: "img" }, fill);
  const budget = budgetBar(id, name.toLowerCase(), move);
  const element = el(
    "article",
    { class: "tier" },
    el("h3", {}, el("i", { class: `dot from-${id}`, "aria-hidden": "true" }), name),
    el("p", { class: "note" }, what),
    SETTABLE.includes(id) ? budget.element : meter,
    amount,
    detail,
  );
  return {
    element,
    show(stats, poolBytes) {
      const { bytes, budgetBytes, held } = holdingOf(stats, id, poolBytes);
      const part = budgetBytes > 0 ? Math.min(1, bytes / budgetBytes) : 0;
      fill.style.inlineSize = `${part * 100}%`;
      amount.textContent = `${bytesText(bytes)} of ${bytesText(budgetBytes)}`;
      meter.ariaLabel = `${name}: ${amount.textContent}`;
      detail.textContent = held;
      budget.show(bytes, budgetBytes);
    },
  };
}

interface Holding {
  bytes: number;
  budgetBytes: number;
  held: string;
}

function holdingOf(stats: CacheStats, id: string, poolBytes: number): Holding {
  if (id === "gpu") {
    const { blocks, bytes } = stats.gpu;
    const held = `${numberText(blocks.cached)} blocks kept, ${numberText(blocks.inUse)} in use, ${numberText(blocks.free)} free`;
    return { bytes, budgetBytes: poolBytes, held };
  }
  const tier = stats.tiers.find(({ name }) => name === id);
  if (!tier) return { bytes: 0, budgetBytes: 0, held: "not there" };
  const { bytes, budgetBytes, records } = tier;
  const state = tier.state === undefined || tier.state === "open" ? "" : `, ${tier.state}`;
  const waiting =
    tier.kind === "async" && stats.waiting > 0 ? `, ${numberText(stats.waiting)} being written` : "";
  return { bytes, budgetBytes, held: `${numberText(records)} records${waiting}${state}` };
}
