/** What the doors need of engines: the calls that they make, and how a model's name leads to one. The engine itself fits. */
import type {
  ChatMessage,
  EmbedInput,
  EmbedParams,
  EngineInfo,
  GenerateParams,
  GenerationResult,
  RenderedChat,
  StepOutput,
} from "../wire/protocol.ts";
import { TidepoolError } from "../errors.ts";

/** A request under way. */
export interface Running extends AsyncIterable<Omit<StepOutput, "id">> {
  result(): Promise<GenerationResult>;
}

type Params = GenerateParams & { signal?: AbortSignal | undefined };
type Template = Record<string, unknown> | undefined;

/** A loaded model, as the doors use it. */
export interface Speaker {
  readonly info: EngineInfo;
  chat(messages: readonly ChatMessage[], options: Params & { template?: Template }): Running;
  generate(prompt: string | readonly number[], options: Params): Running;
  embed(
    texts: readonly EmbedInput[],
    options: EmbedParams & { signal?: AbortSignal | undefined },
  ): Promise<Float32Array[]>;
  render(messages: readonly ChatMessage[], options: { template?: Template }): Promise<RenderedChat>;
  countTokens(prompt: string): Promise<number>;
  tokenize(text: string): Promise<number[]>;
  tokenBytes(tokens: readonly number[]): Promise<Uint8Array[]>;
}

/** A model that is held for a request; `release` is called once. */
export interface Lease {
  name: string;
  speaker: Speaker;
  release(): void;
}

/** The models that may be asked, by name. */
export interface ModelSource {
  readonly names: readonly string[];
  /** @param name undefined: the first. @throws TidepoolError `not_found` */
  open(name: string | undefined): Promise<Lease>;
}

/** One model that is loaded already, under its own name. */
export function oneModel(speaker: Speaker): ModelSource {
  const nameOf = (): string => speaker.info.model.name;
  return {
    get names() {
      return [nameOf()];
    },
    open(asked = nameOf()) {
      const name = nameOf();
      if (asked !== name) return Promise.reject(noModel(asked, [name]));
      return Promise.resolve({ name, speaker, release: () => {} });
    },
  };
}

export function noModel(asked: string, names: readonly string[]): TidepoolError {
  const known = names.map((name) => JSON.stringify(name)).join(", ");
  const message = `model ${JSON.stringify(asked.slice(0, 200))} is not here, expected ${known}`;
  return new TidepoolError("not_found", message, { option: "model" });
}
