/**
 * Reads ranges of a file straight from its server, for what is not kept: again after a cut, a stall or a refusal that may
 * pass, from the byte after the last that came. It keeps nothing.
 */
import { onAbort } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { untilStalled, type DownloadWorld } from "./limits.ts";
import { checkSame, type FileFacts } from "./file-download.ts";
import { requestRange, RequestProblem, type RangeAnswer, type Remote } from "./http.ts";
import { release } from "../release.ts";
import type { Source } from "../source.ts";
import { cut, retrying } from "./transfer.ts";

/** A source of a file whose server has answered once. Closing it stops nothing. */
export function directSource(
  name: string,
  remote: Remote,
  facts: FileFacts,
  world: DownloadWorld,
  signal: AbortSignal,
): Source {
  const readInto = async (offset: number, bytes: Uint8Array, own?: AbortSignal): Promise<void> => {
    checkInside(name, facts, offset, bytes.length);
    const controller = new AbortController();
    const stop = (): void => controller.abort();
    const stopListening = onAbort(signal, stop);
    const stopListeningToOwn = onAbort(own, stop);
    const wanted: Wanted = { remote, facts, offset, bytes, filled: 0 };
    let before = 0;
    const attempt = (): Promise<void> => {
      before = wanted.filled;
      return bring(wanted, world, controller.signal);
    };
    try {
      if (bytes.length > 0)
        await retrying(remote, world, controller.signal, attempt, () => wanted.filled > before);
    } finally {
      stopListening();
      stopListeningToOwn();
    }
  };
  return {
    name,
    sizeBytes: facts.sizeBytes,
    read: async (offset, length, own) => {
      checkInside(name, facts, offset, length);
      const bytes = new Uint8Array(length);
      await readInto(offset, bytes, own);
      return bytes;
    },
    readInto,
    close: () => Promise.resolve(),
  };
}

/** A range that is being read, and how much of it has come. */
interface Wanted {
  remote: Remote;
  facts: FileFacts;
  offset: number;
  bytes: Uint8Array;
  filled: number;
}

/** One request for what is missing. @throws RequestProblem if it does not bring all of it */
async function bring(wanted: Wanted, world: DownloadWorld, signal: AbortSignal): Promise<void> {
  const { remote, facts, offset, bytes } = wanted;
  const controller = new AbortController();
  const stopListening = onAbort(signal, () => controller.abort());
  try {
    const start = offset + wanted.filled;
    const asked = requestRange(remote, start, offset + bytes.length, controller.signal);
    const answer = await untilStalled(world, controller, asked);
    checkSame(remote, facts, answer, start);
    if (answer.isWhole) throw new RequestProblem("answers ranges with the whole file", false);
    await receive(wanted, answer, world, controller);
  } finally {
    stopListening();
    controller.abort(); // whatever of the answer was not read
  }
}

async function receive(
  wanted: Wanted,
  answer: RangeAnswer,
  world: DownloadWorld,
  controller: AbortController,
): Promise<void> {
  const { offset, bytes } = wanted;
  const reader = answer.body.getReader();
  try {
    while (wanted.filled < bytes.length) {
      const { done, value } = await untilStalled(world, controller, reader.read());
      if (done) throw cut(offset + wanted.filled, answer);
      const used = value.subarray(0, bytes.length - wanted.filled);
      bytes.set(used, wanted.filled);
      wanted.filled += used.length;
      release(value);
    }
  } catch (error) {
    throw error instanceof RequestProblem ? error : cut(offset + wanted.filled, answer, error);
  } finally {
    reader.cancel().catch(() => undefined); // not waited for: an aborted body may never say
  }
}

function checkInside(name: string, { sizeBytes }: FileFacts, offset: number, length: number): void {
  if (offset >= 0 && length >= 0 && offset + length <= sizeBytes) return;
  const text = `${name} has ${sizeBytes} bytes, cannot read ${length} at ${offset}`;
  throw new TidepoolError("source", text, { name });
}
