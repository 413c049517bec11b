/**
 * What may be asked of a loaded model, checked once more where it arrives: a guest in another tab may be of another mind than
 * the table that its own page checks by. Only plain data that fits wire/messages.ts comes through.
 */
import { bytes, flag, integer, list, object, rule, text, variants, word, type Rule } from "../../check.ts";
import {
  budgetFields,
  chatMessages,
  clearFields,
  drainTimeout,
  embedFields,
  embedInputs,
  generateFields,
  importFields,
  prefillFields,
  promptTokens,
  scoreFields,
  statsFields,
  warmFields,
  templateVariables,
  tools,
  treeLimit,
} from "../../wire/arguments.ts";
import type {
  Ask,
  Call,
  EmbedParams,
  GenerateParams,
  RequestInput,
  Resume,
  TokenLogprob,
} from "../../wire/protocol.ts";

type Of<M extends Call["method"]> = Extract<Call, { method: M }>;

const id = integer(0, Number.MAX_SAFE_INTEGER);

/** Minus infinity too. */
const logprob = rule<number>("a number", (value) => typeof value === "number");

const chat = object<Extract<RequestInput, { kind: "chat" }>>(
  "messages",
  { kind: word("chat"), messages: chatMessages, template: templateVariables, tools },
  { kind: true, messages: true },
);

const input = variants<RequestInput, "kind">("kind", {
  text: object("a text", { kind: word("text"), text: text() }, { kind: true, text: true }),
  tokens: object("tokens", { kind: word("tokens"), tokens: promptTokens }, { kind: true, tokens: true }),
  chat,
});

const likely = object<TokenLogprob["top"][number]>(
  "token and logprob",
  { token: id, logprob },
  { token: true, logprob: true },
);

const resume = object<Resume>(
  "tokens",
  {
    tokens: promptTokens,
    logprobs: list(
      "log-probabilities",
      object<TokenLogprob>(
        "token, logprob and top",
        // The likeliest ones of a result are an array that its owner may change.
        { token: id, logprob, top: list("tokens", likely) as unknown as Rule<TokenLogprob["top"]> },
        { token: true, logprob: true, top: true },
      ),
    ),
  },
  { tokens: true },
);

const METHOD = { method: true } as const;
const WITH_INPUT = { method: true, input: true } as const;
const WITH_JOB = { method: true, job: true } as const;

const params = object<GenerateParams>("how to generate", generateFields);
const embedParams = object<EmbedParams>("how to embed", embedFields);

const call = variants<Call, "method">("method", {
  tokenize: object<Of<"tokenize">>(
    "text",
    { method: word("tokenize"), text: text() },
    { ...METHOD, text: true },
  ),
  detokenize: object<Of<"detokenize">>(
    "tokens",
    { method: word("detokenize"), tokens: promptTokens },
    { ...METHOD, tokens: true },
  ),
  tokenBytes: object<Of<"tokenBytes">>(
    "tokens",
    { method: word("tokenBytes"), tokens: promptTokens },
    { ...METHOD, tokens: true },
  ),
  render: object<Of<"render">>("a chat", { method: word("render"), input: chat }, WITH_INPUT),
  countTokens: object<Of<"countTokens">>("input", { method: word("countTokens"), input }, WITH_INPUT),
  predict: object<Of<"predict">>(
    "input and params",
    { method: word("predict"), input, params },
    { ...WITH_INPUT, params: true },
  ),
  check: object<Of<"check">>("nothing", { method: word("check") }, METHOD),
  stats: object<Of<"stats">>("nothing", { method: word("stats"), ...statsFields }, METHOD),
  loseDevice: object<Of<"loseDevice">>("nothing", { method: word("loseDevice") }, METHOD),
  warm: object<Of<"warm">>("input", { method: word("warm"), input, ...warmFields }, WITH_INPUT),
  cacheStats: object<Of<"cacheStats">>("nothing", { method: word("cacheStats") }, METHOD),
  cacheList: object<Of<"cacheList">>("nothing", { method: word("cacheList") }, METHOD),
  cacheVerify: object<Of<"cacheVerify">>("nothing", { method: word("cacheVerify") }, METHOD),
  cacheClear: object<Of<"cacheClear">>("a namespace", { method: word("cacheClear"), ...clearFields }, METHOD),
  cacheBudgets: object<Of<"cacheBudgets">>(
    "bytes",
    { method: word("cacheBudgets"), ...budgetFields },
    METHOD,
  ),
  cacheExport: object<Of<"cacheExport">>("input", { method: word("cacheExport"), input }, WITH_INPUT),
  cacheImport: object<Of<"cacheImport">>(
    "an archive",
    { method: word("cacheImport"), archive: bytes, ...importFields },
    { ...METHOD, archive: true },
  ),
  cacheDrain: object<Of<"cacheDrain">>(
    "timeoutMs",
    { method: word("cacheDrain"), timeoutMs: drainTimeout },
    { ...METHOD, timeoutMs: true },
  ),
  cacheTree: object<Of<"cacheTree">>(
    "a limit",
    { method: word("cacheTree"), limit: treeLimit },
    { ...METHOD, limit: true },
  ),
  cacheWatch: object<Of<"cacheWatch">>(
    "on",
    { method: word("cacheWatch"), on: flag },
    { ...METHOD, on: true },
  ),
  prefillFacts: object<Of<"prefillFacts">>("nothing", { method: word("prefillFacts") }, METHOD),
  prefillOpen: object<Of<"prefillOpen">>(
    "tokens, from and cache",
    { method: word("prefillOpen"), ...prefillFields },
    { ...METHOD, tokens: true, from: true, cache: true },
  ),
  prefillNext: object<Of<"prefillNext">>("a job", { method: word("prefillNext"), job: id }, WITH_JOB),
  prefillClose: object<Of<"prefillClose">>("a job", { method: word("prefillClose"), job: id }, WITH_JOB),
  embed: object<Of<"embed">>(
    "inputs and params",
    { method: word("embed"), inputs: embedInputs as Rule<Of<"embed">["inputs"]>, params: embedParams },
    { ...METHOD, inputs: true, params: true },
  ),
  score: object<Of<"score">>(
    "tokens, from and logits",
    { method: word("score"), tokens: promptTokens, ...scoreFields },
    { ...METHOD, tokens: true, from: true, logits: true },
  ),
});

const asks = variants<Ask, "type">("type", {
  submit: object<Extract<Ask, { type: "submit" }>>(
    "a request",
    { type: word("submit"), id, input, params, resume },
    { type: true, id: true, input: true, params: true },
  ),
  abort: object<Extract<Ask, { type: "abort" }>>(
    "an id",
    { type: word("abort"), id },
    { type: true, id: true },
  ),
  call: object<Extract<Ask, { type: "call" }>>(
    "a call",
    { type: word("call"), id, call },
    { type: true, id: true, call: true },
  ),
});

/** What is asked, where it is something that can be. @throws TidepoolError `invalid_argument` */
export function readAsk(ask: unknown): Ask {
  return asks.read(ask, "ask");
}
