/** One tier of the cache: its bar, what it holds, and its budget as a slider where it can be moved. */
import type { CacheStats } from "../src/index.ts";
import { el } from "./dom.ts";
import { bytesText, numberText } from "./format.ts";

export type TierId = "gpu" | "ram" | "disk";

interface Tier {
  id: TierId;
  name: string;
  what: string;
}

export const TIERS: readonly Tier[] = [
  { id: "gpu", name: "GPU", what: "used without a copy" },
  { id: "ram", name: "Memory", what: "a copy away, until the page closes" },
  { id: "disk", name: "Disk", what: "there after a reload" },
];

/** Budgets go by powers of two, from 1 MiB to 16 GiB, in quarter steps. */
const SMALLEST_LOG = 20;
const LARGEST_LOG = 34;
const STEP_LOG = 0.25;

export interface TierPanel {
  element: HTMLElement;
  /** @param poolBytes what the GPU holds for keys and values. */
  show(stats: CacheStats, poolBytes: number): void;
}

/** @param move is called with the bytes that the user has chosen. */
export function tierPanel({ id, name, what }: Tier, move: (bytes: number) => void): TierPanel {
  const amount = el("p", { class: "amount" });
  const detail = el("p", { class: "note" });
  const fill = el("span", { class: `fill from-${id}` });
  const bar = el("div", { class: "meter", role: "img" }, fill);
  const slider = budgetSlider(id, name, move);
  const element = el(
    "article",
    { class: "tier" },
    el("h3", {}, el("i", { class: `dot from-${id}`, "aria-hidden": "true" }), name),
    el("p", { class: "note" }, what),
    bar,
    amount,
    detail,
    ...(id === "gpu" ? [] : [slider.element]),
  );
  return {
    element,
    show(stats, poolBytes) {
      const { bytes, budgetBytes, held } = holdingOf(stats, id, poolBytes);
      const part = budgetBytes > 0 ? Math.min(1, bytes / budgetBytes) : 0;
      fill.style.inlineSize = `${part * 100}%`;
      amount.textContent = `${bytesText(bytes)} of ${bytesText(budgetBytes)}`;
      bar.ariaLabel = `${name}: ${amount.textContent}`;
      detail.textContent = held;
      slider.show(budgetBytes);
    },
  };
}

interface Holding {
  bytes: number;
  budgetBytes: number;
  held: string;
}

function holdingOf(stats: CacheStats, id: TierId, poolBytes: number): Holding {
  if (id === "gpu") {
    const { blocks, bytes } = stats.gpu;
    const held = `${numberText(blocks.cached)} blocks kept, ${numberText(blocks.inUse)} in use, ${numberText(blocks.free)} free`;
    return { bytes, budgetBytes: poolBytes, held };
  }
  const { bytes, budgetBytes, records } = stats[id];
  const state = id === "disk" && stats.disk.state !== "open" ? `, ${stats.disk.state}` : "";
  const waiting = id === "disk" && stats.waiting > 0 ? `, ${numberText(stats.waiting)} being written` : "";
  return { bytes, budgetBytes, held: `${numberText(records)} records${waiting}${state}` };
}

function budgetSlider(id: TierId, name: string, move: (bytes: number) => void) {
  const input = el("input", {
    id: `budget-${id}`,
    type: "range",
    min: SMALLEST_LOG,
    max: LARGEST_LOG,
    step: STEP_LOG,
  });
  const chosen = (): number => Math.round(2 ** input.valueAsNumber);
  const said = el("output", { for: input.id });
  const describe = (bytes: number): void => {
    said.textContent = bytesText(bytes);
    input.ariaValueText = bytesText(bytes);
  };
  let isMoving = false;
  input.addEventListener("input", () => {
    isMoving = true;
    describe(chosen());
  });
  input.addEventListener("change", () => {
    isMoving = false;
    move(chosen());
  });
  const label = el("label", { for: input.id }, "Budget");
  label.append(el("span", { class: "spoken" }, ` of ${name.toLowerCase()}`));
  return {
    element: el("div", { class: "budget" }, label, input, said),
    show(bytes: number) {
      if (isMoving || bytes <= 0) return;
      input.value = String(Math.log2(bytes));
      describe(bytes);
    },
  };
}
