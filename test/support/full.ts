/// <reference types="vite/types/importMeta.d.ts" />
/** Tests that only the full run has, in files whose other tests belong to the normal one. */
import { test } from "vitest";

export const IS_FULL = import.meta.env.MODE === "full";

/** Instead of `test`, where the normal run shows the same from nearer or further off. There it is no test, and not counted. */
export const fullTest: typeof test = IS_FULL ? test : (Object.assign(() => {}, test) as typeof test);
