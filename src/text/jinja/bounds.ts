/**
 * The bounds on what a chat template may do: it is a program that came with the model's file, and may loop for ever or write
 * without end. Work is counted in nodes evaluated and items made, so that the same template stops at the same place everywhere.
 * What the parser or a single built-in takes is not counted: the deadline of the worker in which this runs covers that.
 */
import { TidepoolError } from "../../errors.ts";

/** Nodes evaluated and items made: some seconds. A conversation of a thousand messages takes some ten thousand. */
const MAX_TEMPLATE_STEPS = 2_000_000;

/** Characters of the text that a template makes, and of any text on the way there. */
const MAX_RENDERED_CHARS = 16 * 1024 * 1024;

/** Items of a list on the way. */
const MAX_LIST_ITEMS = 1024 * 1024;

/** Making a text of this many characters counts as one step. */
const CHARS_PER_STEP = 64;

/** The steps that one rendering has taken. */
export class Budget {
  private steps = 0;

  /** @throws TidepoolError `timed_out` naming the bound. */
  take(steps: number): void {
    this.steps += steps;
    if (this.steps <= MAX_TEMPLATE_STEPS) return;
    throw new TidepoolError("timed_out", `the chat template takes more than ${MAX_TEMPLATE_STEPS} steps`, {
      limit: MAX_TEMPLATE_STEPS,
    });
  }

  /** Counts a text that was made. @throws TidepoolError `too_long` or `timed_out`. */
  takeText(chars: number): void {
    checkChars(chars);
    this.take(chars / CHARS_PER_STEP);
  }

  /** Counts a list that was made. @throws TidepoolError `too_long` or `timed_out`. */
  takeItems(items: number): void {
    checkItems(items);
    this.take(items);
  }
}

/** To be asked before a text of this length is made. @throws TidepoolError `too_long` */
export function checkChars(chars: number): void {
  if (chars > MAX_RENDERED_CHARS) throw tooMuch("a text", MAX_RENDERED_CHARS, "characters");
}

/** To be asked before a list of this length is made. @throws TidepoolError `too_long` */
export function checkItems(items: number): void {
  if (items > MAX_LIST_ITEMS) throw tooMuch("a list", MAX_LIST_ITEMS, "items");
}

function tooMuch(what: string, limit: number, unit: string): TidepoolError {
  return new TidepoolError("too_long", `the chat template makes ${what} of more than ${limit} ${unit}`, {
    limit,
  });
}
