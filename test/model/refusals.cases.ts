/**
 * Requests that fail between their submission and their end: a failure is injected at every step of the way, once, and must be
 * that request's alone. Beside it another one runs and says what it says alone; afterwards nothing is held: no seat, block,
 * output or place in the queue. What a GPU step's failure does is device-loss.cases.ts's.
 */
import { TidepoolError } from "../../src/errors.ts";
import type { GenerateParams, RequestInput } from "../../src/wire/protocol.ts";
import type { Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";

const INJECTED = "injected";

const text = (prompt: string): RequestInput => ({ kind: "text", text: prompt });

type Methods = Record<string, (...given: never[]) => unknown>;

/** Makes a method fail once, at its `nth` call for which `isMeant` holds. Returns what puts it back. */
function failOnce(
  target: object,
  method: string,
  nth = 1,
  isMeant: (...given: never[]) => boolean = () => true,
) {
  const methods = target as Methods;
  const before = methods[method]!;
  let left = nth;
  const own = Object.getOwnPropertyDescriptor(target, method);
  methods[method] = function (this: object, ...given: never[]) {
    if (isMeant(...given) && --left === 0) throw new Error(INJECTED);
    return before.apply(this, given);
  };
  return (): void => {
    if (own) Object.defineProperty(target, method, own);
    else delete methods[method];
    if (left > 0)
      throw new Error(`${method} was called ${nth - left} times, and should have failed at ${nth}`);
  };
}

/** The rooms of a session, by the names that it has for them. */
interface Rooms {
  prompts: object & { decoder(prompt: readonly number[]): object };
  scheduler: object;
  requests: object & { ended: unknown; post: unknown };
  intake: object & { readonly count: number };
  loop: object;
}

/** The decoder of the next request is one that fails. */
function breakDecoder(rooms: Rooms, method: string, nth: number): () => void {
  const { prompts } = rooms;
  const before = prompts.decoder.bind(prompts);
  let putBack = (): void => {};
  prompts.decoder = (prompt) => {
    const decoder = before(prompt);
    putBack = failOnce(decoder, method, nth);
    prompts.decoder = before;
    return decoder;
  };
  return () => putBack();
}

/** The output of the next request fails. */
function breakOutput(rooms: Rooms, method: string): () => void {
  const { requests } = rooms;
  const add = (requests as unknown as Methods)["add"]!;
  let putBack = (): void => {};
  (requests as unknown as Methods)["add"] = function (this: object, ...given: never[]) {
    putBack = failOnce(given[1] as unknown as object, method);
    delete (requests as unknown as Methods)["add"];
    return add.apply(this, given);
  };
  return () => putBack();
}

/** Steps of submission and ending, in their order, each with what makes it fail for the next request. */
const POINTS: Record<string, (rooms: Rooms) => () => void> = {
  "room in the queue": (rooms) => failOnce(rooms.intake, "checkRoom"),
  encoding: ({ prompts }) => failOnce(prompts, "encode"),
  "room after encoding": (rooms) => failOnce(rooms.intake, "checkRoom", 2),
  "check of the tokens": (rooms) => failOnce(rooms.intake, "checkTokens"),
  decoder: ({ prompts }) => failOnce(prompts, "decoder"),
  "scheduler's acceptance": ({ scheduler }) => failOnce(scheduler, "submit"),
  "first text": (rooms) => breakDecoder(rooms, "push", 1),
  "later text": (rooms) => breakDecoder(rooms, "push", 5),
  "taking a token in": (rooms) => breakOutput(rooms, "accept"),
  "last text": (rooms) => breakDecoder(rooms, "end", 1),
  flush: (rooms) => breakOutput(rooms, "flush"),
  "what hears of the end": ({ requests }) => failOnce(requests, "ended"),
  result: (rooms) => breakOutput(rooms, "result"),
};

/** What a caller can do to a request that is refused before its first step. */
const REFUSED: [string, RequestInput, GenerateParams][] = [
  ["an empty stop string", text("The"), { stop: [""] }],
  ["an overlong stop string", text("The"), { stop: "x".repeat(2000) }],
  ["too many stop strings", text("The"), { stop: Array<string>(65).fill("x") }],
  ["a token outside of the vocabulary", { kind: "tokens", tokens: [1, 512] }, {}],
  ["a bias outside of the vocabulary", text("The"), { logitBias: { 512: 1 } }],
  ["no token", { kind: "tokens", tokens: [] }, {}],
  ["more than the context", text("The"), { maxTokens: 10_000 }],
];

export const cases: Case[] = [
  {
    name: "model/refusals/a failure at any step of submission or ending is one request's alone",
    async run(env) {
      const model = await env.shared("goldens/stories260K/model.gguf");
      const session = await TestSession.load(env.gpu, model, { dtype: "f32", maxRequests: 2 });
      const rooms = session.session as unknown as Rooms;
      const alone = await session.generate(text("Once upon a time"), { maxTokens: 24 }).done;
      try {
        for (const [name, inject] of Object.entries(POINTS)) {
          const beside = session.generate(text("Once upon a time"), { maxTokens: 24 });
          while (rooms.intake.count > 0) await new Promise((resolve) => setTimeout(resolve));
          const putBack = inject(rooms);
          const { done } = session.generate(text("The cat"), { maxTokens: 8, cache: "off" });
          const ended = await done.then(
            () => "no error",
            (error: TidepoolError) => `${error.code}: ${error.message}`,
          );
          putBack();
          equal(ended, `internal: ${INJECTED}`, name);
          equal((await beside.done).text, alone.text, `beside: ${name}`);
          session.checkIdle();
          equal(rooms.intake.count, 0, `${name}: texts on their way`);
        }
        const last = await session.generate(text("Once upon a time"), { maxTokens: 24 }).done;
        equal(last.text, alone.text, "after all of them");
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/refusals/more refused requests than there are seats leave all seats free",
    async run(env) {
      const model = await env.shared("goldens/stories260K/model.gguf");
      const session = await TestSession.load(env.gpu, model, { dtype: "f32", maxRequests: 2 });
      try {
        const beside = session.generate(text("Once upon a time"), { maxTokens: 24 });
        for (const [name, input, params] of [...REFUSED, ...REFUSED]) {
          const error = await session.generate(input, params).done.then(
            () => undefined,
            (e: TidepoolError) => e,
          );
          equal(error?.code, name.startsWith("more than") ? "too_long" : "invalid_argument", name);
        }
        equal((await beside.done).tokens.length, 24, "the one beside them");
        session.checkIdle();
        equal((await session.generate(text("The"), { maxTokens: 3 }).done).tokens.length, 3, "the next one");
      } finally {
        await session.close();
      }
    },
  },
];
