/**
 * The requests of a race: conversations over a few log books in the words of the harbour, some asked about often and some seldom,
 * with conversations that go on after others came between. Seeded: the same for both sides, and each time.
 */
import type { ChatMessage } from "../../src/index.ts";

export interface RaceRequest {
  messages: readonly ChatMessage[];
  /** Says what came of it, so that the conversation can go on. */
  answered(text: string, tokens: readonly number[]): void;
}

const BOOKS = 7;
const LINES = 14;
/** The chance that a conversation gets another turn, and how many may be open. */
const GO_ON = 0.35;
const MAX_OPEN = 6;

const SHIPS = [
  "Marlow",
  "Tern",
  "Osprey",
  "Kelpie",
  "Brannock",
  "Sallow",
  "Petrel",
  "Garwick",
  "Dunlan",
  "Erlvin",
];
const GOODS = ["timber", "coal", "tin", "rope", "wax", "salt", "oats", "wool"];

/** Makes `count` requests, each when it is asked for, because the later turns hold the answers to the earlier ones. */
export function* raceRequests(count: number, seed: number): Generator<RaceRequest> {
  const random = randomFrom(seed);
  const books = Array.from({ length: BOOKS }, (_, book) => logBook(book, random));
  const open: ChatMessage[][] = [];
  for (let done = 0; done < count; done++) {
    const goesOn = open.length > 0 && random() < GO_ON;
    const at = Math.floor(random() * open.length);
    const [before] = goesOn ? open.splice(at, 1) : [];
    // Squared: the first books are asked about more often.
    const book = books[Math.floor(random() ** 2 * BOOKS)] as string;
    const messages = before ?? [{ role: "system", content: book }];
    messages.push({ role: "user", content: question(random) });
    yield {
      messages: [...messages],
      answered(text, tokens) {
        messages.push({ role: "assistant", content: text, tokens });
        open.push(messages);
        if (open.length > MAX_OPEN) open.shift();
      },
    };
  }
}

function logBook(book: number, random: () => number): string {
  const lines = Array.from({ length: LINES }, (_, line) => {
    const ship = SHIPS[(book + line) % SHIPS.length] as string;
    return line % 2 === 0
      ? `The ${ship} lies at berth ${40 + Math.floor(random() * 50)}.`
      : `The ${ship} carries ${pick(GOODS, random)}.`;
  });
  return `Log book ${book + 1} of the north quay.\n${lines.join("\n")}`;
}

function question(random: () => number): string {
  const ship = pick(SHIPS, random);
  return random() < 0.5 ? `At which berth does the ${ship} lie?` : `What does the ${ship} carry?`;
}

function pick<T>(values: readonly T[], random: () => number): T {
  return values[Math.floor(random() * values.length)] as T;
}

/** Numbers in [0, 1) by a linear congruential generator, of which only the upper bits count. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
