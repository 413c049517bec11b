/**
 * A tier's budget as a bar: its length stands for bytes, by powers of two; the filled part is what is used, the handle the
 * budget. The handle is dragged, or moved by the keyboard's arrows; the new value is reported when it is released.
 */
import { el } from "../page/dom.ts";
import { bytesText } from "../page/format.ts";

/** From 1 MiB to 16 GiB, in quarter steps. */
const SMALLEST_LOG = 20;
const LARGEST_LOG = 34;
const STEP_LOG = 0.25;
/** The value is set when no further key is pressed for this long. */
const KEY_REST_MS = 400;

export interface BudgetBar {
  element: HTMLElement;
  show(usedBytes: number, budgetBytes: number): void;
}

const shareOf = (bytes: number): number =>
  bytes <= 0 ? 0 : clamp((Math.log2(bytes) - SMALLEST_LOG) / (LARGEST_LOG - SMALLEST_LOG), 0, 1);

const clamp = (value: number, least: number, most: number): number => Math.min(most, Math.max(least, value));

/** @param name "memory"; `move` is called with the bytes that the user has chosen. */
export function budgetBar(id: string, name: string, move: (bytes: number) => void): BudgetBar {
  const fill = el("span", { class: `used from-${id}` });
  const handle = el("span", {
    class: "handle",
    role: "slider",
    tabindex: 0,
    "aria-label": `Budget of ${name}`,
    "aria-valuemin": SMALLEST_LOG,
    "aria-valuemax": LARGEST_LOG,
  });
  const track = el("div", { class: "budget-track" }, fill, handle);
  const said = el("output", {});
  const element = el("div", { class: "budget-bar" }, track, el("p", { class: "note" }, "Budget ", said));
  let log = SMALLEST_LOG;
  let isMoving = false;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const put = (next: number): void => {
    log = clamp(Math.round(next / STEP_LOG) * STEP_LOG, SMALLEST_LOG, LARGEST_LOG);
    draw(2 ** log);
  };
  const draw = (bytes: number): void => {
    handle.style.insetInlineStart = `${shareOf(bytes) * 100}%`;
    handle.setAttribute("aria-valuenow", String(Math.log2(bytes)));
    handle.setAttribute("aria-valuetext", bytesText(bytes));
    said.textContent = bytesText(bytes);
  };
  const finish = (): void => {
    clearTimeout(timer);
    if (!isMoving) return;
    isMoving = false;
    move(Math.round(2 ** log));
  };
  const follow = (event: PointerEvent): void => {
    const { left, width } = track.getBoundingClientRect();
    put(SMALLEST_LOG + clamp((event.clientX - left) / width, 0, 1) * (LARGEST_LOG - SMALLEST_LOG));
  };
  track.addEventListener("pointerdown", (event) => {
    isMoving = true;
    track.setPointerCapture(event.pointerId);
    handle.focus();
    follow(event);
    event.preventDefault();
  });
  track.addEventListener(
    "pointermove",
    (event) => isMoving && track.hasPointerCapture(event.pointerId) && follow(event),
  );
  track.addEventListener("pointerup", finish);
  track.addEventListener("pointercancel", finish);
  handle.addEventListener("keydown", (event) => {
    const next = nextLog(event.key, log);
    if (next === undefined) return;
    event.preventDefault();
    isMoving = true;
    put(next);
    clearTimeout(timer);
    timer = setTimeout(finish, KEY_REST_MS);
  });
  handle.addEventListener("blur", finish);
  return {
    element,
    show(usedBytes, budgetBytes) {
      fill.style.inlineSize = `${shareOf(usedBytes) * 100}%`;
      if (isMoving || budgetBytes <= 0) return;
      log = Math.log2(budgetBytes);
      draw(budgetBytes);
    },
  };
}

function nextLog(key: string, log: number): number | undefined {
  switch (key) {
    case "ArrowRight":
    case "ArrowUp":
      return log + STEP_LOG;
    case "ArrowLeft":
    case "ArrowDown":
      return log - STEP_LOG;
    case "PageUp":
      return log + 1;
    case "PageDown":
      return log - 1;
    case "Home":
      return SMALLEST_LOG;
    case "End":
      return LARGEST_LOG;
    default:
      return undefined;
  }
}
