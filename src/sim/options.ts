/** Reads the words of a replay's options: policies, capacities, models. It opens no files. */
import { BYTE_SIZE, parseBytes } from "../byte-size.ts";
import type { Cost } from "../shape/cost.ts";
import { costOf, namedShapes, parseShape } from "../shape/cost.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import { policyNames } from "../cache/policy/policy.ts";
import { TidepoolError } from "../errors.ts";
import { someText } from "./arguments.ts";
import type { ReplayOptions } from "./replay.ts";
import type { Trace } from "./trace.ts";

/** "lru,marconi" -> names. Throws `invalid_argument` with the known names. */
export function parsePolicies(list: string): PolicyName[] {
  return someText
    .read(list, "policies")
    .split(",")
    .map((word) => {
      const name = policyNames.find((known) => known === word.trim());
      if (name === undefined) {
        throw new TidepoolError("invalid_argument", `policy "${word}" is none of ${policyNames.join(", ")}`);
      }
      return name;
    });
}

/** "4e10,blocks:1000,inf" -> capacities. Bytes may have a unit (see byte-size.ts). */
export function parseCapacities(list: string): ReplayOptions["capacity"][] {
  return someText
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
      `capacity "${word}" is not a positive number of ${BYTE_SIZE}; nor blocks:N or inf`,
    );
  }
  return { bytes };
}

/** Names that `--model` knows. */
export const modelNames: readonly string[] = Object.keys(namedShapes);

/** The costs of a model that is known by name, see `modelNames`. */
export function namedModel(name: string): Cost | undefined {
  return Object.hasOwn(namedShapes, name) ? costOf(namedShapes[name]!) : undefined;
}

/** The costs of a shape file's text. Throws `invalid_file` with the file's name and the bad field. */
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

/** The models of the papers that the traces come from: Mooncake's for block traces, else Marconi's. */
export function defaultModel(trace: Trace): string {
  return trace.symbolTokens > 1 ? "llama3-70b" : "nvidia-hybrid-7b";
}
