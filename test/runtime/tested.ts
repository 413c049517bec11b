/**
 * `npm run test:table`: reads what the last runs left in dist/results, notes which models passed in test/tested-models.json, and
 * writes the README's table anew. What those runs did not run stays as it was noted; what failed in them is taken out.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { ARCHITECTURES } from "../../src/model/arch/rows.ts";
import {
  modelOfCase,
  readTested,
  TESTED_FILE,
  withTable,
  type Tested,
  type TestedModels,
} from "../support/tested-models.ts";
import { RESULTS } from "./result.ts";
import type { CaseLine } from "./run.ts";

type Kind = keyof Tested;

/** A model of a kind that ran, and whether all of its cases passed. */
interface Ran {
  kind: Kind;
  name: string;
  architecture: string;
  passed: boolean;
}

const json = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"));

/** The row of a golden's `architecture`: the name in GGUF files, or the model type of config.json. */
function architectureOf(golden: string): string | undefined {
  if (!existsSync(golden)) return undefined;
  const { architecture } = json(golden) as { architecture: string };
  return ARCHITECTURES.find(({ gguf, config }) => gguf === architecture || config.includes(architecture))
    ?.gguf;
}

function modelOf(caseName: string): Pick<Ran, "kind" | "name" | "architecture"> | undefined {
  const model = modelOfCase(caseName);
  if (!model) return undefined;
  const folder = model.kind === "transformers" ? "test/goldens" : "../shared/goldens/models";
  const architecture = architectureOf(`${folder}/${model.name}/golden.json`);
  return architecture === undefined ? undefined : { ...model, architecture };
}

function ofCases(file: string): Ran[] {
  return (json(`${RESULTS}/${file}`) as CaseLine[]).flatMap(({ case: name, ok, skipped }) => {
    const model = skipped ? undefined : modelOf(name);
    return model ? [{ ...model, passed: ok }] : [];
  });
}

/** The files of test/real, each about one model. */
const REAL: Readonly<Record<string, Pick<Ran, "name" | "architecture">>> = {
  "smollm2.test.ts": { name: "SmolLM2-135M-Instruct Q4_1", architecture: "llama" },
  "minilm.test.ts": { name: "all-MiniLM-L6-v2 in safetensors", architecture: "bert" },
};

interface VitestResults {
  testResults: { name: string; status: string }[];
}

function ofReal(): Ran[] {
  const file = `${RESULTS}/real.json`;
  if (!existsSync(file)) return [];
  return (json(file) as VitestResults).testResults.flatMap(({ name, status }) => {
    const model = REAL[name.split("/").at(-1) ?? ""];
    return model ? [{ ...model, kind: "real" as const, passed: status === "passed" }] : [];
  });
}

/** What was noted, with what ran in place of what was noted of it. */
function noted(before: TestedModels, ran: readonly Ran[]): TestedModels {
  const after: TestedModels = {};
  for (const { gguf } of ARCHITECTURES) {
    const named = (kind: Kind): string[] => {
      const own = ran.filter((each) => each.kind === kind && each.architecture === gguf);
      const failed = new Set(own.filter(({ passed }) => !passed).map(({ name }) => name));
      const names = [...(before[gguf]?.[kind] ?? []), ...own.map(({ name }) => name)];
      return [...new Set(names)].filter((name) => !failed.has(name)).sort();
    };
    const tested = { golden: named("golden"), transformers: named("transformers"), real: named("real") };
    if (Object.values(tested).some((names) => names.length > 0)) after[gguf] = tested;
  }
  return after;
}

const before = existsSync(TESTED_FILE) ? readTested() : {};
const files = existsSync(RESULTS) ? readdirSync(RESULTS) : [];
const ofGpu = files.filter((file) => /^(node|deno|chromium)[\w.-]*\.json$/.test(file));
const after = noted(before, [...ofGpu.flatMap(ofCases), ...ofReal()]);
writeFileSync(TESTED_FILE, `${JSON.stringify(after, undefined, 2)}\n`);
writeFileSync("README.md", withTable(readFileSync("README.md", "utf8"), after));
console.log(`${TESTED_FILE}: ${Object.keys(after).length} architectures, from ${ofGpu.length} runs`);
