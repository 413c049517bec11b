/**
 * Traces: lists of requests that can be replayed. Reads Mooncake's block traces (and what recorder.ts writes), the SWE
 * schedule with its sessions, and the chat traces, each from text. It opens no files and generates nothing (see
 * workload.ts); token ids of any size become dense 32-bit numbers.
 */
import { TidepoolError } from "../errors.ts";
import { text as someText } from "../check.ts";
import { fileKind, insteadOf } from "../file-kind.ts";

/** One request of a trace: when it arrived, its length, and what its prefix shares with others. */
export interface TraceRequest {
  /** Arrival, since the start of the trace. */
  timestampMs: number;
  inputTokens: number;
  outputTokens: number;
  /** Symbols of the input; the remaining symbols are the output, which the request leaves in the cache. */
  inputSymbols: number;
  /** The request's symbols, in pieces that several requests may share. */
  pieces: Int32Array[];
}

/** A list of requests in the order of their arrival. */
export interface Trace {
  name: string;
  /** Tokens that one symbol stands for: 1 in token traces, the block size in block traces. */
  symbolTokens: number;
  requests: TraceRequest[];
}

/**
 * The input and output of a request as one sequence of symbols.
 *
 * @example
 * ```ts
 * const [request] = trace.requests;
 * console.log(sequenceOf(request!).length === request!.inputTokens + request!.outputTokens); // true
 * ```
 */
export function sequenceOf(request: TraceRequest): Int32Array {
  const sequence = new Int32Array(request.pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of request.pieces) {
    sequence.set(piece, at);
    at += piece.length;
  }
  return sequence;
}

/** Tokens in a block of Mooncake's traces. */
const mooncakeBlockTokens = 512;

/**
 * The text of a trace file. Files compressed by gzip are recognised by their first two bytes.
 *
 * @example
 * ```ts
 * console.log(await decodeTraceBytes(new TextEncoder().encode("{}"))); // {}
 * ```
 */
export async function decodeTraceBytes(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b;
  if (!isGzip) return new TextDecoder().decode(bytes);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
}

/**
 * Reads a trace in any of the known formats, which it recognises by the fields of the first line. `sessions` is the text of the
 * session file that a SWE schedule needs.
 * @throws TidepoolError `invalid_file`, with name, line and field
 *
 * @example
 * ```ts
 * const line = '{"timestamp": 0, "input_length": 1024, "output_length": 8, "hash_ids": [7, 9]}';
 * const { symbolTokens, requests } = parseTrace("one request", line);
 * console.log(symbolTokens, requests.length); // 512 1
 * ```
 */
export function parseTrace(name: string, text: string, sessions?: { name: string; text: string }): Trace {
  const lines = new Lines(someText().read(name, "name"), someText().read(text, "text"));
  const first = lines.peek();
  if ("hash_ids" in first || "tidepool_trace" in first) return parseBlockTrace(lines);
  if ("sys" in first) return parseChat(lines);
  if ("sid" in first && "inLen" in first) {
    if (sessions === undefined) {
      throw new TidepoolError(
        "invalid_argument",
        `${name} is a schedule and needs its session file (--sessions)`,
      );
    }
    return parseSchedule(lines, parseSessions(new Lines(sessions.name, sessions.text)));
  }
  throw new TidepoolError(
    "invalid_file",
    `${name}: line 1 does not have the fields of any known trace format`,
  );
}

type Fields = Record<string, unknown>;

/** The JSON objects of a text, one a line, with errors that name file and line. */
class Lines {
  readonly name: string;
  private readonly lines: string[];
  private next = 0;

  constructor(name: string, text: string) {
    this.name = name;
    this.lines = text.split("\n");
    while (this.lines.at(-1)?.trim() === "") this.lines.pop();
    if (this.lines.length === 0) throw new TidepoolError("invalid_file", `${name} is empty`);
  }

  peek(): Fields {
    const before = this.next;
    const fields = this.take();
    this.next = before;
    return fields;
  }

  *[Symbol.iterator](): Generator<Fields> {
    while (this.next < this.lines.length) yield this.take();
  }

  fail(problem: string): never {
    throw new TidepoolError("invalid_file", `${this.name}: line ${this.next}: ${problem}`, {
      line: this.next,
    });
  }

  count(fields: Fields, field: string): number {
    const value = fields[field];
    if (!Number.isSafeInteger(value) || (value as number) < 0) this.fail(`${field} must be a whole number`);
    return value as number;
  }

  time(fields: Fields, field: string): number {
    const value = fields[field];
    if (typeof value !== "number" || !Number.isFinite(value)) this.fail(`${field} must be a number`);
    return value as number;
  }

  counts(fields: Fields, field: string): number[] {
    const value = fields[field];
    const isList = Array.isArray(value) && value.every((id) => Number.isSafeInteger(id));
    if (!isList) this.fail(`${field} must be a list of whole numbers`);
    return value as number[];
  }

  private take(): Fields {
    const line = this.lines[this.next++] as string;
    let parsed: unknown;
    try {
      parsed = JSON.parse(line);
    } catch (error) {
      if (this.next === 1 && fileKind(line) && !line.startsWith("{")) {
        const problem = insteadOf("a trace, one JSON object a line", line);
        throw new TidepoolError("invalid_file", `${this.name} ${problem}`, { line: 1 });
      }
      this.fail(`not JSON (${error instanceof Error ? error.message : String(error)})`);
    }
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) this.fail("not an object");
    return parsed as Fields;
  }
}

/** Large or sparse ids -> 0, 1, 2, ... in order of first appearance. */
class Interner {
  private readonly ids = new Map<number, number>();

  list(ids: readonly number[]): Int32Array {
    return Int32Array.from(ids, (id) => {
      const known = this.ids.get(id);
      if (known !== undefined) return known;
      this.ids.set(id, this.ids.size);
      return this.ids.size - 1;
    });
  }
}

/** Runs of consecutive ids, each run interned as a whole: the same key always gives the same tokens. */
export class TokenRuns {
  private readonly runs = new Map<string, Int32Array>();
  private next = 0;

  /** The first `length` tokens of the run `key`. Asking again for more than the first time is an error. */
  get(key: string, length: number): Int32Array {
    let run = this.runs.get(key);
    if (run === undefined) {
      const base = this.next;
      run = Int32Array.from({ length }, (_, k) => base + k);
      this.runs.set(key, run);
      this.next += length;
    }
    if (run.length < length) {
      throw new TidepoolError("invalid_file", `piece ${key} has ${run.length} tokens, but later ${length}`);
    }
    return run.length === length ? run : run.subarray(0, length);
  }
}

/** Mooncake: {timestamp, input_length, output_length, hash_ids}. A recorded trace begins with a line
 * {tidepool_trace: 1, block_tokens} and has `output_ids` for the blocks that complete during generation. */
function parseBlockTrace(lines: Lines): Trace {
  const interner = new Interner();
  const trace: Trace = { name: lines.name, symbolTokens: mooncakeBlockTokens, requests: [] };
  for (const fields of lines) {
    if ("tidepool_trace" in fields) {
      if (fields["tidepool_trace"] !== 1)
        lines.fail(`trace version ${String(fields["tidepool_trace"])} is not 1`);
      trace.symbolTokens = lines.count(fields, "block_tokens");
      continue;
    }
    const input = interner.list(lines.counts(fields, "hash_ids"));
    const output =
      "output_ids" in fields ? interner.list(lines.counts(fields, "output_ids")) : new Int32Array(0);
    trace.requests.push({
      timestampMs: lines.time(fields, "timestamp"),
      inputTokens: lines.count(fields, "input_length"),
      outputTokens: lines.count(fields, "output_length"),
      inputSymbols: input.length,
      pieces: [input, output],
    });
  }
  return trace;
}

/** Chats: {sid, tid, ts, sys, sysLen, userLen, outLen, inLen}; equal (sid, tid, kind) are equal tokens. */
function parseChat(lines: Lines): Trace {
  const runs = new TokenRuns();
  const histories = new Map<number, Int32Array[]>();
  const trace: Trace = { name: lines.name, symbolTokens: 1, requests: [] };
  for (const fields of lines) {
    const sid = lines.count(fields, "sid");
    const tid = lines.count(fields, "tid");
    const head = (): Int32Array[] => [
      runs.get(`sys ${String(fields["sys"])}`, lines.count(fields, "sysLen")),
    ];
    const history = tid === 0 ? head() : histories.get(sid);
    if (history === undefined) lines.fail(`turn ${tid} of session ${sid} comes before its turn 0`);
    const user = runs.get(`${sid} ${tid} user`, lines.count(fields, "userLen"));
    const output = runs.get(`${sid} ${tid} output`, lines.count(fields, "outLen"));
    const input = [...history, user];
    trace.requests.push(tokenRequest(lines, fields, input, output));
    histories.set(sid, [...input, output]);
  }
  return trace;
}

interface Turn {
  user: Int32Array;
  output: Int32Array;
}

/** SWE sessions: {id, turns: [[user ids, output ids], ...]}. */
function parseSessions(lines: Lines): Turn[][] {
  const sessions: Turn[][] = [];
  for (const fields of lines) {
    const turns = fields["turns"];
    if (!Array.isArray(turns)) lines.fail("turns must be a list");
    sessions.push(
      (turns as unknown[]).map((turn, i) => {
        if (!Array.isArray(turn) || turn.length !== 2)
          lines.fail(`turns[${i}] must be [user ids, output ids]`);
        const [user, output] = turn as [unknown, unknown];
        return {
          user: Int32Array.from(lines.counts({ user }, "user")),
          output: Int32Array.from(lines.counts({ output }, "output")),
        };
      }),
    );
  }
  return sessions;
}

/** History entries with both parts beyond which the oldest observations are dropped, and which one is dropped. */
const fullTurnsKept = 6;
const droppedFromEnd = 5;

/** A SWE schedule: {sid, tid, ts, inLen, outLen}; the order in which the sessions' turns arrive. */
function parseSchedule(lines: Lines, sessions: Turn[][]): Trace {
  const histories = new Map<number, { user: Int32Array | undefined; output: Int32Array }[]>();
  const trace: Trace = { name: lines.name, symbolTokens: 1, requests: [] };
  for (const fields of lines) {
    const sid = lines.count(fields, "sid");
    const tid = lines.count(fields, "tid");
    const turn = sessions[sid]?.[tid];
    if (turn === undefined) lines.fail(`the session file has no turn ${tid} of session ${sid}`);
    const history = histories.get(sid) ?? [];
    const past = history.flatMap((entry) =>
      entry.user === undefined ? [entry.output] : [entry.user, entry.output],
    );
    trace.requests.push(tokenRequest(lines, fields, [...past, turn.user], turn.output));
    if (history.filter((entry) => entry.user !== undefined).length >= fullTurnsKept) {
      history[history.length - droppedFromEnd]!.user = undefined;
    }
    histories.set(sid, [...history, { user: turn.user, output: turn.output }]);
  }
  return trace;
}

function tokenRequest(lines: Lines, fields: Fields, input: Int32Array[], output: Int32Array): TraceRequest {
  const inputTokens = input.reduce((sum, piece) => sum + piece.length, 0);
  const stated = lines.count(fields, "inLen");
  if (inputTokens !== stated) lines.fail(`inLen is ${stated}, but the pieces have ${inputTokens} tokens`);
  if (output.length !== lines.count(fields, "outLen")) lines.fail(`outLen is not ${output.length}`);
  const timestampMs = lines.time(fields, "ts") * 1000;
  const pieces = [...input, output];
  return { timestampMs, inputTokens, outputTokens: output.length, inputSymbols: inputTokens, pieces };
}
