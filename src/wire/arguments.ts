/**
 * The table of what calls take: a rule for each option and argument. The caller's side checks by it before it posts anything,
 * and the worker by it again (asks.ts), because other tabs' messages reach the worker too. TypeScript compares the table with
 * rooms beside it: a property without a rule, or with a rule for fewer values, does not compile. It knows no model: what depends on
 * a vocabulary or a context is checked in the session.
 */
import { isPublicKey } from "../archive-signing.ts";
import {
  bytes,
  flag,
  integer,
  integers,
  isTyped,
  json,
  list,
  number,
  object,
  oneNumberOf,
  oneOf,
  orOne,
  refuseValue,
  rule,
  secretText,
  stringOr,
  text,
  variants,
  word,
  type Fields,
  type Rule,
} from "../check.ts";
import { SAMPLING_FIELDS } from "../model/sampling.ts";
import { MAX_STOP_CHARS, MAX_STOP_STRINGS } from "../text/stop.ts";
import type {
  CacheOptions,
  CacheScope,
  ChatMessage,
  ChatRole,
  EmbedInput,
  EmbedParams,
  EngineObjectives,
  EngineOptions,
  GenerateParams,
  HubOptions,
  ModelsOptions,
  Objectives,
  PrefillOptions,
  ScoreOptions,
  SourceOptions,
  StatsOptions,
  TextPart,
  Tool,
  ToolCall,
  WarmOptions,
} from "./protocol.ts";

/** A count that no device or disk reaches; what is really there is found out later. */
const MAX_TOKENS = 2 ** 24;
const MAX_BYTES = 2 ** 50;
const MAX_WAIT_MS = 3_600_000;
const MAX_NAME_CHARS = 1024;

/** Blocks of a tree's snapshot at most. */
export const MAX_TREE_BLOCKS = 10_000;

/** Texts of one `embed` call at most. */
const MAX_EMBED_TEXTS = 16_384;

/** Keys in `cache.trust`, and blocks to be compared when an archive is imported, at most. */
const MAX_TRUSTED_KEYS = 1024;
const MAX_SPOT_CHECKS = 65_536;

const publicKey = rule<string>("an Ed25519 public key: 43 characters of base64url", isPublicKey);

const aboveZero = number("above 0", (value) => value > 0);
const someBytes = integer(1, MAX_BYTES);
const name = text(0, MAX_NAME_CHARS);
const needed = text(1);

/** No user or password in it: the key travels in a header. */
const webAddress = rule<string>("an http: or https: address without user name and password", (value) => {
  if (typeof value !== "string" || !URL.canParse(value)) return false;
  const { protocol, username, password } = new URL(value);
  return /^https?:$/.test(protocol) && username === "" && password === "";
});

export const sourceFields: Fields<SourceOptions> = {
  hub: object<HubOptions>("the Hub's options", { baseUrl: needed, token: secretText }),
  models: object<ModelsOptions>("options of the models that are kept", { directory: needed, keep: flag }),
};

export const cacheFields: Fields<CacheOptions> = {
  directory: needed,
  disk: flag,
  ramBytes: integer(0, MAX_BYTES),
  diskBytes: integer(0, MAX_BYTES),
  restore: oneOf({ auto: true, load: true, compute: true, both: true }),
  policy: oneOf({ marconi: true, lru: true, lfu: true, "length-aware": true, vllm: true, sglang: true }),
  namespace: name,
  maxAgeMs: aboveZero,
  atRestBits: oneNumberOf(8, 4),
  atRestStateBits: oneNumberOf(16),
  trust: list("public keys", publicKey, 0, MAX_TRUSTED_KEYS),
};
export const cacheOptions = object<CacheOptions>("the cache's options", cacheFields);

const objectiveFields: Fields<Objectives> = {
  ttftMs: aboveZero,
  tbtMs: aboveZero,
  deadlineMs: aboveZero,
};

export const engineFields: Fields<EngineOptions> = {
  ...sourceFields,
  dtype: oneOf({ auto: true, f32: true, f16: true }),
  kvDtype: oneOf({ f32: true, f16: true, q8: true, q4: true, q2: true }),
  blockTokens: oneNumberOf(16, 32, 64) as Rule<number>,
  chunkTokens: integer(1, 8192),
  maxRequests: integer(1, 16),
  poolTokens: integer(1, MAX_TOKENS),
  poolBytes: someBytes,
  poolStartTokens: integer(1, MAX_TOKENS),
  memoryBytes: someBytes,
  tables: oneOf({ gpu: true, file: true }),
  expertMemory: someBytes,
  expertRamBytes: integer(0, MAX_BYTES),
  experts: oneOf({ exact: true, bounded: true }),
  expertPolicy: oneOf({ lru: true, lfu: true, static: true, "moe-infinity": true, promoe: true }),
  expertPrediction: flag,
  expertPredictor: bytes,
  adapter: text(),
  powerPreference: oneOf({ "high-performance": true, "low-power": true }),
  subgroups: flag,
  textTimeoutMs: integer(10, MAX_WAIT_MS),
  objectives: object<EngineObjectives>("objectives", {
    ...objectiveFields,
    rejection: oneOf({ none: true, early: true, predicted: true }),
  }),
  cache: cacheOptions,
  prefill: object<PrefillOptions>(
    "the prefill service's url and key",
    { url: webAddress, key: secretText, when: oneOf({ faster: true, always: true }) },
    { url: true, key: true },
  ),
};

const cacheScope: Rule<CacheScope> = oneOf({ off: true, memory: true, disk: true });

export const generateFields: Fields<GenerateParams> = {
  ...SAMPLING_FIELDS,
  maxTokens: integer(1, Number.MAX_SAFE_INTEGER),
  stop: orOne(
    text(1, MAX_STOP_CHARS),
    list("non-empty strings", text(1, MAX_STOP_CHARS), 0, MAX_STOP_STRINGS),
  ),
  overflow: oneOf({ error: true, truncateStart: true, stop: true }),
  cache: cacheScope,
  cacheMaxAgeMs: aboveZero,
  ...objectiveFields,
  priority: oneOf({ interactive: true, background: true }),
  prefill: flag,
};

/** Who may have written a message. Templates name no others. */
const role: Rule<ChatRole> = oneOf({
  system: true,
  developer: true,
  user: true,
  assistant: true,
  tool: true,
});

export const promptTokens = integers("token ids");

const part = variants<TextPart, "type">("type", {
  text: object<TextPart>("a text", { type: word("text"), text: text() }, { type: true, text: true }),
});
const parts = list<TextPart>("text parts", part);

/** Text, its parts, or nothing. */
const content: Rule<ChatMessage["content"]> = {
  expected: "a string, an array of text parts, or null",
  read(value, path) {
    if (value === null || typeof value === "string") return value;
    return Array.isArray(value) ? parts.read(value, path) : refuseValue(path, value, content.expected);
  },
};

/** An object of JSON values with a function's name; what else a template may print of it is nobody's business here. */
function withFunction<T extends object>(what: string, isOne: (given: T) => boolean): Rule<T> {
  return {
    expected: what,
    read(value, path) {
      const given = json.read(value, path) as T;
      return isOne(given) ? given : refuseValue(path, value, what);
    },
  };
}

const named = (given: { function?: { name?: unknown } }): boolean =>
  typeof given.function?.name === "string" && given.function.name !== "";

const toolCall = withFunction<ToolCall>("a tool call { function: { name, arguments } }", (given) => {
  const { arguments: values } = named(given) ? given.function : { arguments: 0 };
  const isObject = typeof values === "object" && values !== null && !Array.isArray(values);
  return named(given) && (values === undefined || typeof values === "string" || isObject);
});

const tool = withFunction<Tool>(
  'a tool { type: "function", function: { name, ... } }',
  (given) => given.type === "function" && named(given),
);

export const tools = list<Tool>("tools", tool);

const message = object<ChatMessage>(
  "role and content",
  {
    role,
    content,
    tokens: promptTokens,
    tool_calls: list<ToolCall>("tool calls", toolCall),
    tool_call_id: text(),
    name: text(),
    reasoning_content: text(),
  },
  { role: true, content: true },
);

export const chatMessages = list<ChatMessage>("messages", message, 1);

/** What a prefill service is asked for. */
export const prefillFields = {
  tokens: promptTokens,
  from: integer(0, MAX_TOKENS),
  cache: oneOf({ memory: true, disk: true }),
};

/** A text, or a conversation. */
export const textOrChat = stringOr("a string, or an array of messages", text(), Array.isArray, chatMessages);

/** A text, or token ids. */
export const textOrTokens = stringOr(
  "a string, or an array of token ids",
  text(),
  (value) => Array.isArray(value) || isTyped(value),
  promptTokens,
);

/** Texts to embed, or one. */
export const embedInputs = orOne<EmbedInput>(
  textOrTokens,
  list<EmbedInput>("strings or arrays of token ids", textOrTokens, 0, MAX_EMBED_TEXTS),
);

export const embedFields: Fields<EmbedParams> = {
  dimensions: integer(1, MAX_TOKENS),
  normalise: flag,
  truncate: flag,
  task: needed,
};

/** Given to a chat template. */
export const templateVariables: Rule<Record<string, unknown>> = json;

export const scoreFields = { from: integer(0, MAX_TOKENS), logits: flag, cache: cacheScope };
export const scoreOptions = object<ScoreOptions>("options", scoreFields);

export const warmFields = { cache: cacheScope };
export const warmOptions = object<WarmOptions>("options", warmFields);

export const budgetFields = { ramBytes: integer(0, MAX_BYTES), diskBytes: integer(0, MAX_BYTES) };
export const budgets = object<{ ramBytes?: number; diskBytes?: number }>("budgets in bytes", budgetFields);

export const importFields = { verify: integer(0, MAX_SPOT_CHECKS) };
export const importOptions = object<{ verify?: number }>("options", importFields);

export const clearFields = { namespace: name };
export const clearOptions = object<{ namespace?: string }>("options", clearFields);

export const treeLimit = integer(1, MAX_TREE_BLOCKS);
export const statsFields: Fields<StatsOptions> = { eventsAfter: integer(0, Number.MAX_SAFE_INTEGER) };
export const statsOptions = object<StatsOptions>("what to tell", statsFields);

export const drainTimeout = number(`from 0 to ${MAX_WAIT_MS}`, (ms) => ms >= 0 && ms <= MAX_WAIT_MS);
export const modelName = needed;
