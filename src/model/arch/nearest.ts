/**
 * How near a model of an unknown architecture is to a known one: it is read as each of them in turn, and what is left over or
 * missing is told. It decides nothing: a model runs only under its own name.
 */
import { TidepoolError } from "../../errors.ts";
import type { ModelFile } from "../../load/model-file.ts";
import type { Architecture } from "./architecture.ts";
import { ARCHITECTURES, modelTypeOf, readShape } from "./rows.ts";
import { tensorDifferences } from "./tensor-names.ts";

export interface Nearest {
  architecture: string;
  /** What a row of this model would have to differ in, a phrase each; empty if it reads all. */
  differences: string[];
}

/** Keys that are set aside one after another, at most: an architecture with more is not near. */
const MAX_KEYS = 32;

/** Names shown of each kind of difference. */
const MAX_NAMES = 6;

/** The known architecture that leaves the least of the model over; undefined if the model's own is known, or none can read it. */
export function nearestKnown(file: ModelFile): Nearest | undefined {
  const own = ownName(file);
  if (own === undefined || ARCHITECTURES.some((row) => row.gguf === own || row.config.includes(own)))
    return undefined;
  const found = ARCHITECTURES.flatMap((row) => posesAs(row, file).map((pose) => compare(row, pose)));
  const near = found.filter((each) => each !== undefined).sort((a, b) => a.distance - b.distance);
  return near[0]?.nearest;
}

function ownName(file: ModelFile): string | undefined {
  const name = file.format === "gguf" ? file.metadata.get("general.architecture") : modelTypeOf(file.config);
  return typeof name === "string" ? name : undefined;
}

/** The file as if its settings were a known architecture's. */
function posesAs({ gguf, config }: Architecture, file: ModelFile): ModelFile[] {
  if (file.format === "safetensors") {
    const { text_config: text, ...whole } = file.config;
    const flat = { ...whole, ...(text as Record<string, unknown> | undefined) };
    return config.map((type) => ({ ...file, config: { ...flat, model_type: type } }));
  }
  const prefix = `${ownName(file)}.`;
  const renamed = [...file.metadata].map(([key, value]): [string, typeof value] => [
    key.startsWith(prefix) ? `${gguf}.${key.slice(prefix.length)}` : key,
    value,
  ]);
  const metadata = new Map(renamed).set("general.architecture", gguf);
  return [{ ...file, metadata }];
}

interface Compared {
  nearest: Nearest;
  distance: number;
}

/** undefined: this architecture cannot read the settings at all. */
function compare({ gguf }: Architecture, pose: ModelFile): Compared | undefined {
  const keys: string[] = [];
  for (let file = pose; keys.length <= MAX_KEYS;) {
    try {
      const { missing, unused } = tensorDifferences(file, readShape(file).shape);
      const kinds = [keys, inAnyLayer(missing), inAnyLayer(unused)] as const;
      const words = [
        "does not compute with the keys",
        "would miss the tensors",
        "has no part for the tensors",
      ];
      const differences = kinds.flatMap((names, kind) =>
        names.length === 0 ? [] : [`${words[kind]} ${listed(names)}`],
      );
      return { nearest: { architecture: gguf, differences }, distance: kinds.flat().length };
    } catch (error) {
      const key = error instanceof TidepoolError ? error.details["key"] : undefined;
      if (typeof key !== "string" || !(error as TidepoolError).message.includes(key)) return undefined;
      const rest = without(file, key);
      if (!rest) return undefined;
      file = rest;
      keys.push(key.startsWith(`${gguf}.`) ? key.slice(gguf.length + 1) : key);
    }
  }
  return undefined;
}

/** The file without a setting; undefined if it has none of that name. */
function without(file: ModelFile, key: string): ModelFile | undefined {
  if (file.format === "gguf") {
    const metadata = new Map(file.metadata);
    return metadata.delete(key) ? { ...file, metadata } : undefined;
  }
  const [name = ""] = key.split(".");
  const { [name]: value, ...config } = file.config;
  return value === undefined ? undefined : { ...file, config };
}

/** Names without the numbers of layers and experts, each once. */
function inAnyLayer(names: readonly string[]): string[] {
  return [...new Set(names.map((name) => name.replace(/(^|\.)\d+(?=\.)/g, "$1N")))];
}

function listed(names: readonly string[]): string {
  const more = names.length - MAX_NAMES;
  return names.slice(0, MAX_NAMES).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
