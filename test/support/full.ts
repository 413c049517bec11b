/// <reference types="vite/types/importMeta.d.ts" />
/** Tests that only the full run has, in files whose other tests belong to the normal one; and how often random tests try. */
import { test } from "vitest";

/** Whether this is the full run: of the tests that drive what was built, or of the unit tests ("full-unit"). */
export const IS_FULL = import.meta.env.MODE.startsWith("full");

/** How often a random test tries that tries `full` times in the full run. */
export const tries = (full: number): number => (IS_FULL ? full : Math.ceil(full / 3));

/** Instead of `test`, where the normal run shows the same from nearer or further off. There it is no test, and not counted. */
export const fullTest: typeof test = IS_FULL ? test : (Object.assign(() => {}, test) as typeof test);
