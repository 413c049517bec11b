/** Reads the words of a replay's options: policies, capacities, models. It opens no files. */
import { BYTE_SIZE, parseBytes } from "../byte-size.ts";
import type { Cost } from "../shape/cost.ts";
import { costOf, namedShapes, parseShape } from "./cost-shape.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import { policyNames } from "../cache/policy/policy.ts";
import { TidepoolError } from "../errors.ts";
import { text as someText } from "../check.ts";
import type { ReplayOptions } from "./replay.ts";
import type { Trace } from "./trace.ts";

/**
 * Reads a list of policies, such as "lru,marconi".
 * @throws TidepoolError `invalid_argument`, with the known names
 *
 * @example
 * ```ts
 * console.log(parsePolicies("lru,marconi")); // [ 'lru', 'marconi' ]
 * ```
 */
export function parsePolicies(list: string): PolicyName[] {
  return someText()
    .read(list, "policies")
    .split(",")
    .map((word) => {
      const name = policyNames.find((known) => known === word.trim());
      if (name === undefined) {
        throw new TidepoolError(
          "invalid_argument",
          `policy "${word}" is not one of ${policyNames.join(", ")}`,
        );
      }
      return name;
    });
}

/**
 * Reads a list of capacities, such as "40GB,blocks:1000,inf". A number without a unit is in bytes.
 * @throws TidepoolError `invalid_argument`
 *
 * @example
 * ```ts
 * console.log(parseCapacities("40GB,blocks:1000,inf")); // [ { bytes: 40000000000 }, { blocks: 1000 }, 'inf' ]
 * ```
 */
export function parseCapacities(list: string): ReplayOptions["capacity"][] {
  return someText()
    .read(list, "capacities")
    .split(",")
    .map((word) => parseCapacity(word.trim()));
}

function parseCapacity(word: string): ReplayOptions["capacity"] {
  if (word === "inf") return "inf";
  const blocks = /^blocks:(\d+)$/.exec(word);
  if (blocks !== null && Number(blocks[1]) > 0) return { blocks: Number(blocks[1]) };
  const bytes = parseBytes(word);
  if (!(bytes > 0)) {
    throw new TidepoolError(
      "invalid_argument",
      `capacity is "${word}", expected a positive number of ${BYTE_SIZE}, blocks:N or inf`,
    );
  }
  return { bytes };
}

/**
 * The names that `namedModel` and the command's `--model` accept.
 *
 * @example
 * ```ts
 * console.log(modelNames.includes("llama3-8b")); // true
 * ```
 */
export const modelNames: readonly string[] = Object.keys(namedShapes);

/**
 * The costs of a model by its name (see `modelNames`); undefined if the name is unknown.
 *
 * @example
 * ```ts
 * console.log(namedModel("llama3-8b")?.bytesPerToken); // 131072
 * ```
 */
export function namedModel(name: string): Cost | undefined {
  return Object.hasOwn(namedShapes, name) ? costOf(namedShapes[name]!) : undefined;
}

/**
 * The costs of a model whose shape is given as JSON (see `CostShape`).
 * @throws TidepoolError `invalid_file`, with the file's name and the bad field
 *
 * @example
 * ```ts
 * const text = JSON.stringify(namedShapes["llama3-8b"]);
 * console.log(modelFromJson(text, "shape.json").bytesPerToken); // 131072
 * ```
 */
export function modelFromJson(text: string, file: string): Cost {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new TidepoolError(
      "invalid_file",
      `${file}: not JSON (${error instanceof Error ? error.message : ""})`,
    );
  }
  return costOf(parseShape(json, file));
}

/**
 * The name of the model in the paper that a trace comes from: Mooncake's for block traces, otherwise Marconi's.
 *
 * @example
 * ```ts
 * console.log(defaultModel(trace)); // nvidia-hybrid-7b
 * ```
 */
export function defaultModel(trace: Trace): string {
  return trace.symbolTokens > 1 ? "llama3-70b" : "nvidia-hybrid-7b";
}
