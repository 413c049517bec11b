/** How a size that no kernel computes with is refused. It knows no sizes. */
import { TidepoolError } from "../../errors.ts";

/** Rows are read four numbers at a time. */
export const LANES = 4;

/** @throws TidepoolError `unsupported` with `what` unless the condition holds. */
export function need(condition: boolean, what: string): void {
  if (!condition) throw new TidepoolError("unsupported", what);
}

/** Checks sizes that must be whole numbers from 1 on. @param what names their owner: "layer 2: Mamba-2" */
export function needPositive(sizes: Readonly<Record<string, number>>, what: string): void {
  for (const [name, value] of Object.entries(sizes))
    need(Number.isInteger(value) && value > 0, `${what} with ${name} ${value}`);
}
