/**
 * Hostile chat templates and tokenizers in a real text worker, beside a request that decodes: they end with a typed error,
 * tokens arrive meanwhile, and the engine goes on as before. What arrives meanwhile is told by the order of events.
 */
import { TidepoolError } from "../../src/errors.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type { RequestInput } from "../../src/wire/protocol.ts";
import type { TextPort } from "../../src/worker/text/client.ts";
import type { TextParts } from "../../src/worker/text/messages.ts";
import { startTextWorker } from "../../src/worker/text/start.ts";
import { equal } from "../support/equal.ts";
import type { Case } from "../support/cases.ts";
import { TestSession } from "../support/session.ts";
import { byteLevelVocab } from "../support/tiny-vocab.ts";

const TIMEOUT_MS = 3000;
const chat = (content: string): RequestInput => ({ kind: "chat", messages: [{ role: "user", content }] });
const text = (words: string): RequestInput => ({ kind: "text", text: words });

interface Hostile {
  name: string;
  /** The GGUF file's chat template, in place of its own. */
  template?: string;
  /** What the text worker is given in place of the GGUF file's tokenizer. */
  parts?: () => TextParts;
  request: RequestInput;
  error: { code: string; message: RegExp };
}

/** Each look takes about a millisecond and counts as one step, so that the bound on steps is hours away. */
const SLOW_STEPS =
  "{% set ns = namespace(s='ab') %}{% for i in range(22) %}{% set ns.s = ns.s + ns.s %}{% endfor %}" +
  "{% set ns.t = ns.s | upper %}{% for i in range(1000000) %}{% if 'aab' in ns.s %}{% endif %}{% endfor %}";

const HOSTILE: Hostile[] = [
  {
    name: "a template that loops",
    template: SLOW_STEPS,
    request: chat("hi"),
    error: {
      code: "timed_out",
      message: new RegExp(`chat template .* of model.gguf did not finish within ${TIMEOUT_MS} ms`),
    },
  },
  {
    name: "a template with a huge output",
    template:
      "{% set ns = namespace(s='x') %}{% for i in range(29) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    request: chat("hi"),
    error: { code: "too_long", message: /more than 16777216 characters/ },
  },
  {
    name: "a regular expression that takes for ever",
    parts: () => jsonParts("(a+)+b"),
    request: text("a".repeat(100)),
    error: {
      code: "timed_out",
      message: new RegExp(`tokenizer of model.gguf did not finish within ${TIMEOUT_MS} ms`),
    },
  },
];

function hostileCase({ name, template, parts, request, error }: Hostile): Case {
  return {
    name: `model/text-worker/${name} is stopped while another request decodes`,
    async run(env) {
      const file = await openModel([openBytes(await env.shipped("tide-dense.gguf"), "model.gguf")]);
      if (file.format !== "gguf") throw new Error("the shipped model is a GGUF file");
      if (template !== undefined) file.metadata.set("tokenizer.chat_template", template);
      const start = parts === undefined ? startTextWorker : () => withParts(startTextWorker(), parts());
      const limits = { timeoutMs: TIMEOUT_MS, start };
      const session = await TestSession.open(env.gpu, file, { dtype: "f32" }, undefined, limits);
      try {
        equal(session.session.info.textWorker, "own worker", "where text is made");
        await checkStopped(session, request, error);
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

/** The tokens that must arrive between the hostile request and its refusal. */
const TOKENS_MEANWHILE = 3;

async function checkStopped(
  session: TestSession,
  request: RequestInput,
  error: Hostile["error"],
): Promise<void> {
  const short = async () => (await session.generate(text("b c"), { maxTokens: 4 }).done).tokens;
  const before = await short();
  let refused: unknown;
  let meanwhile = 0;
  const hostile = session
    .generate(request, { maxTokens: 1 })
    .done.catch((reason: unknown) => (refused = reason));
  // One after the other, until the hostile one has been refused; each is far longer than what must arrive.
  while (refused === undefined) {
    const { id, done } = session.generate({ kind: "tokens", tokens: [5, 6, 7] }, { maxTokens: 64 }, () => {
      if (refused === undefined) meanwhile++;
      else session.session.abort(id);
    });
    await done;
  }
  await hostile;
  if (!(refused instanceof TidepoolError)) throw new Error(`not a typed error: ${String(refused)}`);
  equal(refused.code, error.code, "the code");
  if (!error.message.test(refused.message)) throw new Error(`the message is: ${refused.message}`);
  // What is found out at once leaves no time to decode in.
  if (error.code === "timed_out" && meanwhile < TOKENS_MEANWHILE) {
    throw new Error(`${meanwhile} tokens arrived while the text worker was busy`);
  }
  equal(await short(), before, "the same request, before and after");
}

/** A tokenizer.json whose pre-tokenizer splits by `regex`. */
function jsonParts(regex: string): TextParts {
  const vocab = byteLevelVocab("gpt-2");
  const tokens = vocab.get("tokenizer.ggml.tokens") as string[];
  const split = { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
  const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  const tokenizerJson = {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, bytes] },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: [] },
  };
  return { file: "model.gguf", format: "safetensors", tokenizerJson };
}

/** A text worker that is given other parts than the session's file has. */
function withParts(port: TextPort, parts: TextParts): TextPort {
  return {
    ...port,
    post: (message) => port.post(message.type === "open" ? { type: "open", parts } : message),
  };
}

export const cases: Case[] = HOSTILE.map(hostileCase);
