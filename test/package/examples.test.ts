/**
 * Every public symbol of the package has a docstring and an example, all examples are of the right types, and those that need no
 * page run on the shipped model and print what they say. Needs the built library (dist/lib).
 */
import { execFile } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  sourceProgram,
  statedOutput,
  typeErrors,
  writeExamples,
  type ExampleModule,
} from "../support/examples.ts";
import { publicSymbols, readExample, type PublicSymbol } from "../support/public-symbols.ts";
import { tinyEncoder } from "../support/tiny-encoder.ts";
import { serveUnreliably, type UnreliableServer } from "../support/unreliable-server.ts";

const LIMIT_MS = 240_000;
const CHILD = "test/package/examples-child.mjs";

/** Types without an example of their own, and the symbol whose example makes or reads a value of each. */
const SHOWN_AT: Record<string, string> = {
  ArchiveExport: "EngineCache.export",
  ArchiveImport: "EngineCache.import",
  CacheEntry: "EngineCache.list",
  CacheEvent: "EngineCache.onEvent",
  CacheStats: "EngineCache.stats",
  NamedTierStats: "EngineCache.stats",
  CountsByPlace: "Engine.chat",
  CachePlace: "EngineCache.tree",
  CacheTierStats: "EngineCache.stats",
  CacheTree: "EngineCache.tree",
  CacheTreeNode: "EngineCache.tree",
  Capability: "Engine.info",
  ChatRole: "ChatMessage",
  Dtype: "EngineOptions",
  EmbeddingInfo: "Engine.embed",
  EmbeddingsBody: "OpenAi.embeddings",
  EmbedInput: "Engine.embed",
  EngineInfo: "Engine.info",
  EngineState: "Engine.state",
  EngineStats: "Engine.stats",
  ErrorFigures: "Engine.stats",
  ExpertEvents: "ExpertEvent",
  StatsOptions: "ExpertEvent",
  GenerationResult: "Generation.result",
  GoodputFigures: "Engine.stats",
  CostLayer: "CostShape",
  KvDtype: "EngineOptions",
  LengthOf: "defaultWorkloads",
  LoadProgress: "LoadOptions",
  ModelList: "OpenAi.models",
  ModelReport: "inspect",
  Notice: "Engine.notices",
  Percentiles: "percentilesOf",
  Prediction: "Engine.predict",
  Priority: "GenerateParams",
  PromptUsage: "Engine.warm",
  PullResult: "models.pull",
  RejectionMode: "EngineObjectives",
  RejectionReason: "Objectives",
  RenderedChat: "render",
  ReplayProgress: "replaySteps",
  ReplayRow: "replay",
  ReplaySeries: "SeriesCollector.series",
  Replayed: "SeriesCollector.observe",
  ScheduleFigures: "Engine.stats",
  ScoreResult: "Engine.score",
  Served: "servedQuantiles",
  ServeRow: "serve",
  SigningKeyText: "newSigningKey",
  StoredModel: "models.list",
  StoredModelFile: "models.list",
  TextCompletionChunk: "TextCompletion",
  TextPart: "ChatMessage",
  TidepoolFields: "ChatBody",
  TokenLogprob: "GenerateParams",
  Trace: "generate",
  TraceRequest: "sequenceOf",
  Usage: "Engine.chat",
  AnswerMessage: "ChatCompletion",
  ChatLogprobs: "ChatCompletion",
  ChosenToken: "ChatCompletion",
  CompletionFields: "ChatBody",
  FinishReason: "ChatCompletion",
  LikelyToken: "ChatCompletion",
  ModelEntry: "OpenAi.models",
  OpenAiCallOptions: "OpenAi.chat",
  OpenAiCreate: "OpenAi.chat",
  TextLogprobs: "OpenAi.completions",
  VerifyResult: "models.verify",
};

const folder = mkdtempSync(join(tmpdir(), "tidepool-examples-"));
let server: UnreliableServer;
let program: ReturnType<typeof sourceProgram>;
let symbols: PublicSymbol[];
let modules: ExampleModule[];

beforeAll(async () => {
  program = sourceProgram();
  symbols = publicSymbols(program);
  server = await serveUnreliably({ "/tide-dense.gguf": readFileSync("demo/models/tide-dense.gguf") });
  modules = writeExamples(symbols, "dist/examples", server.address);
  copyFileSync("demo/models/tide-dense.gguf", join(folder, "tide-dense.gguf"));
  writeFileSync(join(folder, "minilm.gguf"), tinyEncoder());
}, LIMIT_MS);

afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Ran {
  printed: Record<number, string>;
  error?: string;
}

function run(files: readonly string[]): Promise<Ran[]> {
  const addresses = files.map((file) => pathToFileURL(resolve(file.replace(/\.ts$/, ".js"))).href);
  const env = { ...process.env, TIDEPOOL_MODELS: join(folder, "models") };
  return new Promise((done, fail) => {
    const args = [resolve(CHILD), ...addresses];
    execFile(process.execPath, args, { cwd: folder, env, timeout: LIMIT_MS / 2 }, (error, out, err) =>
      error ? fail(new Error(`${error.message}\n${err}`)) : done(JSON.parse(out) as Ran[]),
    );
  });
}

/** What is wrong with the run of an example: its error, or lines that printed something else. */
function problemsOf({ name, printed }: ExampleModule, ran: Ran): string[] {
  if (ran.error !== undefined) return [`${name}: ${ran.error}`];
  const plain = (text: string | undefined): string | undefined => text?.replace(/\s+/g, " ");
  return printed
    .filter(({ line, text }) => plain(ran.printed[line]) !== text)
    .map(({ line, text }) => `${name}: line ${line + 1} printed ${plain(ran.printed[line])}, stated ${text}`);
}

const hasExample = ({ examples }: PublicSymbol): boolean => examples.some(({ code }) => code !== undefined);

describe("the package's documents", { timeout: LIMIT_MS }, () => {
  it("reads the code of an example and what it prints", () => {
    expect(readExample("In a page\n```ts\nf();\n```")).toEqual({ title: "In a page", code: "f();\n" });
    expect(readExample("f();")).toEqual({ title: "f();", code: undefined });
    expect(statedOutput("f();\nconsole.log(1 + 1); // 2\nconsole.log(now); // e.g. 12")).toEqual([
      { line: 1, text: "2" },
    ]);
  });

  it("has a docstring at every public symbol", () => {
    expect(symbols.filter(({ docstring }) => docstring === "").map(({ name }) => name)).toEqual([]);
  });

  it("has an example at every public symbol", () => {
    const without = symbols.filter((symbol) => !hasExample(symbol)).map(({ name }) => name);
    const shown = new Set(symbols.filter(hasExample).map(({ name }) => name));
    expect(without.filter((name) => !shown.has(SHOWN_AT[name] ?? ""))).toEqual([]);
    const types = new Set(symbols.filter(({ kind }) => kind === "type").map(({ name }) => name));
    expect(Object.keys(SHOWN_AT).filter((name) => !types.has(name) || shown.has(name))).toEqual([]);
  });

  it("has examples of the right types", () => {
    expect(typeErrors(modules, program)).toEqual([]);
  });

  it("has examples that run and print what they say", async () => {
    const runnable = modules.filter(({ runs }) => runs);
    const ran = await run(runnable.map(({ file }) => file));
    console.log(`${runnable.length} examples ran, ${modules.length - runnable.length} need a page`);
    expect(runnable.flatMap((module, i) => problemsOf(module, ran[i]!))).toEqual([]);
  });
});
