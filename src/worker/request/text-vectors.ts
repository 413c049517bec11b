/**
 * How a session makes vectors of texts: an encoder computes several whole texts at once, a model that also generates takes
 * them one by one as prompts. The queue of texts is embed.ts; it knows neither.
 */
import { TidepoolError } from "../../errors.ts";
import { guarded } from "../../gpu/guard.ts";
import { MAX_STEP_TEXTS } from "../../model/embedding.ts";
import { notFinite } from "../../model/runner.ts";
import type { EmbeddingInfo } from "../../wire/protocol.ts";
import { Embeds, type Embedded, type EmbedRooms } from "./embed.ts";
import { embedPrompt } from "./embed-prompt.ts";
import type { ScoreRooms } from "./score.ts";

export interface VectorRooms extends Pick<EmbedRooms, "encode" | "checkTokens"> {
  /** Its runner is another one after the device was lost. */
  session: ScoreRooms;
  /** undefined: the model makes no vectors. */
  info: EmbeddingInfo | undefined;
  /** Work beside the requests, one at a time, and once more if the device was lost under it. */
  apart<T>(work: () => Promise<T>): Promise<T>;
  onceMoreIfLost<T>(work: () => Promise<T>): Promise<T>;
}

export function openEmbeds(rooms: VectorRooms): Embeds | undefined {
  const { session, info, encode, checkTokens } = rooms;
  const { embedding } = session.runner.shape;
  if (!embedding || !info) return undefined;
  const { tasks, isEncoder } = embedding;
  return new Embeds({
    ...{ info, tasks, stepTexts: isEncoder ? MAX_STEP_TEXTS : 1, stepTokens: info.maxTokens },
    ...{ encode, checkTokens },
    compute: (texts) => (isEncoder ? encodeTexts(rooms, texts) : embedPrompts(rooms, texts)),
  });
}

export function makesNoVectors(architecture: string): TidepoolError {
  const message = `"${architecture}" makes no vectors of texts, because its file names no pooling: load an embedding model, such as all-MiniLM-L6-v2 or bge-small`;
  return new TidepoolError("unsupported", message, { architecture });
}

type Texts = readonly (readonly number[])[];

/** Whole texts through an encoder, all at once. */
function encodeTexts({ session, onceMoreIfLost }: VectorRooms, texts: Texts): Promise<Embedded[]> {
  return onceMoreIfLost(async () => {
    const { runner } = session;
    const results = await guarded(runner.gpu.device, "to embed", () => runner.embed(texts));
    return results.map((result) => ("position" in result ? notFinite(result.position) : result));
  });
}

function embedPrompts({ session, apart }: VectorRooms, texts: Texts): Promise<Embedded[]> {
  return Promise.all(texts.map((tokens) => apart(() => embedPrompt(session, tokens))));
}
