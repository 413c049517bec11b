/**
 * The models that come with the package, by name, and where their files lie. It opens none of them. Node and Deno only:
 * the page has an address in place of a path.
 */
import { existsSync } from "node:fs";
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
  { name: "tide-hybrid", architecture: "lfm2", runs: false },
  { name: "tide-moe", architecture: "qwen3moe", runs: false },
];

/** What a command uses when no model is named. */
export const DEFAULT_MODEL = "tide-dense";

/** The names that commands take. */
export const RUNNABLE_NAMES: readonly string[] = SHIPPED_MODELS.filter(({ runs }) => runs).map(
  ({ name }) => name,
);

/** The package's root, seen from src/api in a checkout and from dist/lib where it is built: both two folders down. */
const ROOT = "../../";

/** The path of a shipped model's file, whether or not it is there. */
export function shippedPath(name: string): string {
  const here = import.meta.url; // not written inside of the URL: bundlers would take the file in
  return fileURLToPath(new URL(`${ROOT}demo/models/${name}.gguf`, here));
}

/**
 * What a caller named as a model: the path of a shipped one that runs, anything else as it stands.
 * @throws TidepoolError `not_found` where a shipped model's file is missing from the package.
 */
export function resolveModel(model: string): string {
  if (!RUNNABLE_NAMES.includes(model)) return model;
  const path = shippedPath(model);
  if (existsSync(path)) return path;
  throw new TidepoolError("not_found", `the shipped model ${model} is missing: there is no file ${path}`);
}
