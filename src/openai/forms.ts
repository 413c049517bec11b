/** How a request's pieces become objects: those of chats, and those of plain continuations. Pure. */
import type { Piece } from "./choices.ts";
import { asTextLogprobs } from "./logprobs.ts";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChosenToken,
  OpenAiUsage,
  TextCompletion,
  TextCompletionChunk,
} from "./objects.ts";

/** What all objects of one answer say alike. */
export interface Head {
  id: string;
  created: number;
  model: string;
}

/** A kind of completion: how its chunks look, and the whole. */
export interface Form<Whole, Chunk> {
  /** Before anything is known of a choice. */
  opening(head: Head, index: number): Chunk | undefined;
  chunk(head: Head, piece: Piece): Chunk;
  usage(head: Head, usage: OpenAiUsage): Chunk;
  /** @param choices the pieces of each choice */
  whole(head: Head, choices: readonly (readonly Piece[])[], usage: OpenAiUsage): Whole;
}

const contentOf = (pieces: readonly Piece[]): string => pieces.map(({ content }) => content).join("");
const finishOf = (pieces: readonly Piece[]) => pieces.at(-1)!.ended!.reason;

function logprobsOf(pieces: readonly Piece[]): ChosenToken[] | undefined {
  const asked = pieces.some(({ logprobs }) => logprobs);
  return asked ? pieces.flatMap(({ logprobs = [] }) => logprobs) : undefined;
}

const inChat = (content: ChosenToken[] | undefined) => (content ? { content, refusal: null } : null);

function chatChunk(
  head: Head,
  index: number,
  delta: ChatCompletionChunk["choices"][number]["delta"],
  piece?: Piece,
): ChatCompletionChunk {
  const choice = {
    ...{ index, delta, logprobs: inChat(piece?.logprobs) },
    finish_reason: piece?.ended?.reason ?? null,
  };
  return { ...head, object: "chat.completion.chunk", choices: [choice] };
}

export const chatForm: Form<ChatCompletion, ChatCompletionChunk> = {
  opening: (head, index) => chatChunk(head, index, { role: "assistant", content: "" }),
  chunk(head, piece) {
    const { index, content, reasoning } = piece;
    const delta = {
      ...(content !== "" && { content }),
      ...(reasoning !== "" && { reasoning_content: reasoning }),
    };
    return chatChunk(head, index, delta, piece);
  },
  usage: (head, usage) => ({ ...head, object: "chat.completion.chunk", choices: [], usage }),
  whole: (head, choices, usage) => ({
    ...head,
    object: "chat.completion",
    choices: choices.map((pieces, index) => {
      const reasoning = pieces.map((piece) => piece.reasoning).join("");
      return {
        index,
        message: {
          role: "assistant",
          content: contentOf(pieces),
          refusal: null,
          ...(reasoning !== "" && { reasoning_content: reasoning }),
        },
        logprobs: inChat(logprobsOf(pieces)),
        finish_reason: finishOf(pieces),
      };
    }),
    usage,
  }),
};

/** Of one request: the offsets of its tokens go on from chunk to chunk. */
export function textForm(): Form<TextCompletion, TextCompletionChunk> {
  const offsets = new Map<number, number>();
  return {
    opening: () => undefined,
    chunk(head, { index, content, logprobs, ended }) {
      const offset = offsets.get(index) ?? 0;
      offsets.set(
        index,
        (logprobs ?? []).reduce((at, { token }) => at + token.length, offset),
      );
      const choice = {
        ...{ index, text: content, logprobs: logprobs ? asTextLogprobs(logprobs, offset) : null },
        finish_reason: ended?.reason ?? null,
      };
      return { ...head, object: "text_completion", choices: [choice] };
    },
    usage: (head, usage) => ({ ...head, object: "text_completion", choices: [], usage }),
    whole: (head, choices, usage) => ({
      ...head,
      object: "text_completion",
      choices: choices.map((pieces, index) => {
        const logprobs = logprobsOf(pieces);
        return {
          ...{ index, text: contentOf(pieces), logprobs: logprobs ? asTextLogprobs(logprobs, 0) : null },
          finish_reason: finishOf(pieces),
        };
      }),
      usage,
    }),
  };
}
