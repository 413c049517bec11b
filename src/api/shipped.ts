/**
 * The models of the package beside this one, by name, and where their files lie. It opens none of them. Node and Deno only:
 * the page has an address in place of a path.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { TidepoolError } from "../errors.ts";

export interface ShippedModel {
  name: string;
  /** `general.architecture` of its file. */
  architecture: string;
  /** Whether the engine runs this architecture; where it does not, no command takes the name. */
  runs: boolean;
}

export const SHIPPED_MODELS: readonly ShippedModel[] = [
  { name: "tide-dense", architecture: "qwen3", runs: true },
  { name: "tide-hybrid", architecture: "lfm2", runs: true },
  { name: "tide-moe", architecture: "qwen3moe", runs: true },
];

/** What a command uses when no model is named. */
export const DEFAULT_MODEL = "tide-dense";

/** The names that commands take. */
export const RUNNABLE_NAMES: readonly string[] = SHIPPED_MODELS.filter(({ runs }) => runs).map(
  ({ name }) => name,
);

/** The package that has the models' files. */
const MODELS_PACKAGE = "tidepool-models";

/** The root of a checkout, seen from src/api and from dist/lib where it is built: both two folders down. */
const ROOT = "../../";

/**
 * The path of a shipped model's file: a checkout's own, else that of the models' package.
 * @throws TidepoolError `not_found` where it is in neither.
 */
export function shippedPath(name: string): string {
  const here = import.meta.url; // not written inside of the URL: bundlers would take the file in
  const ours = fileURLToPath(new URL(`${ROOT}demo/models/${name}.gguf`, here));
  if (existsSync(ours)) return ours;
  try {
    return createRequire(here).resolve(`${MODELS_PACKAGE}/${name}.gguf`);
  } catch {
    const remedy = `install its package (npm install ${MODELS_PACKAGE})`;
    throw new TidepoolError("not_found", `the model ${name} is not installed: ${remedy}`);
  }
}

/**
 * What a caller named as a model: the path of a shipped one that runs, anything else as it stands.
 * @throws TidepoolError `not_found` where a shipped model is not installed.
 */
export function resolveModel(model: string): string {
  return RUNNABLE_NAMES.includes(model) ? shippedPath(model) : model;
}
