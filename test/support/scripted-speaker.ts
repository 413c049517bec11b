/** A model that says what it is told to, for tests of the doors: it checks what it is asked as the engine does, and computes nothing. */
import { onAbort } from "../../src/base.ts";
import { chatOptions, embedOptions, generateOptions, renderOptions } from "../../src/engine/arguments.ts";
import type { Running, Speaker } from "../../src/openai/source.ts";
import { chatMessages, embedInputs, textOrTokens } from "../../src/wire/arguments.ts";
import type { ChatMessage, GenerateParams, GenerationResult, StepOutput } from "../../src/wire/protocol.ts";

export interface Asked {
  prompt: readonly ChatMessage[] | string | readonly number[];
  options: Omit<GenerateParams, "stop"> & { signal?: AbortSignal; template?: object; stop?: unknown };
}

export interface Script {
  /** What the model says, piece by piece; a token each. */
  says?: readonly string[];
  /** In place of an end. */
  fails?: Error;
  /** Never ends by itself. */
  hangs?: boolean;
  /** What a conversation is rendered to. */
  prompt?: string;
  reasons?: boolean;
}

const SAYS = ["Hello", "."];

type Chunk = Omit<StepOutput, "id">;

export class ScriptedSpeaker implements Speaker {
  readonly asked: Asked[] = [];
  /** Requests that have not ended. */
  open = 0;
  script: Script;
  readonly info: Speaker["info"];

  constructor(script: Script = {}) {
    this.script = script;
    const model = { name: "scripted", contextTokens: 512 };
    this.info = { model, reasons: script.reasons === true } as Speaker["info"];
  }

  chat(messages: readonly ChatMessage[], options: object): Running {
    return this.run(chatMessages.read(messages, "messages"), chatOptions.read(options, ""));
  }

  generate(prompt: string | readonly number[], options: object): Running {
    return this.run(textOrTokens.read(prompt, "prompt"), generateOptions.read(options, ""));
  }

  embed(texts: readonly (string | readonly number[])[], options: object): Promise<Float32Array[]> {
    embedOptions.read(options, "");
    const inputs = embedInputs.read(texts, "texts") as readonly (string | readonly number[])[];
    return Promise.resolve(inputs.map((text) => Float32Array.of(text.length, 0.5)));
  }

  render(messages: readonly ChatMessage[], options: object): Promise<{ text: string; tokens: number[] }> {
    chatMessages.read(messages, "messages");
    renderOptions.read(options, "");
    return Promise.resolve({ text: this.script.prompt ?? "", tokens: [1, 2] });
  }

  countTokens(text: string): Promise<number> {
    return Promise.resolve(text.length);
  }

  tokenize(text: string): Promise<number[]> {
    return Promise.resolve([...text].map((char) => char.codePointAt(0)!));
  }

  tokenBytes(tokens: readonly number[]): Promise<Uint8Array[]> {
    return Promise.resolve(
      tokens.map((token) => new TextEncoder().encode((this.script.says ?? SAYS)[token] ?? "?")),
    );
  }

  private run(prompt: Asked["prompt"], options: object): Running {
    const asked = { prompt, options } as Asked;
    this.asked.push(asked);
    this.open++;
    const { says = SAYS, fails, hangs } = this.script;
    const { maxTokens = says.length, logprobs, signal } = asked.options;
    const count = Math.min(maxTokens, says.length);
    const chunks = says.slice(0, count).map((text, token): Chunk => {
      const top = logprobs === undefined ? [] : [{ token, logprob: -Infinity }].slice(0, logprobs);
      return {
        text,
        tokens: [token],
        ...(logprobs !== undefined && { logprobs: [{ token, logprob: -1, top }] }),
      };
    });
    const finishReason = count < says.length ? "length" : "stop";
    const result = resultOf(chunks, finishReason);
    const aborted = new Promise<void>((resolve) => void onAbort(signal, resolve));
    const ended = (async (): Promise<GenerationResult> => {
      await Promise.race([aborted, hangs ? new Promise(() => {}) : undefined]);
      if (fails) throw fails;
      return signal?.aborted ? resultOf([], "aborted") : result;
    })().finally(() => this.open--);
    ended.catch(() => {}); // by whoever awaits it
    return {
      result: () => ended,
      async *[Symbol.asyncIterator]() {
        if (fails) throw fails;
        for (const chunk of chunks) yield await Promise.resolve(chunk);
        await ended;
      },
    };
  }
}

function resultOf(
  chunks: readonly Chunk[],
  finishReason: GenerationResult["finishReason"],
): GenerationResult {
  const tokens = chunks.flatMap((chunk) => chunk.tokens);
  return {
    text: chunks.map(({ text }) => text).join(""),
    tokens,
    finishReason,
    usage: {
      promptTokens: 70,
      computedTokens: 6,
      cachedTokens: { gpu: 32, ram: 0, disk: 32 },
      completionTokens: tokens.length,
    },
    timing: { ttftMs: 1, prefillTokensPerSecond: 1, decodeTokensPerSecond: 1 },
  };
}
