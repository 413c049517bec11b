/**
 * A Backend whose reads come at a given rate, one after another: a medium as slow as a benchmark needs it. Everything
 * else is the true backend's.
 */
import type { Backend } from "../../src/tier/disk/backend.ts";

export class SlowReads {
  /** Infinity: as fast as the medium is. */
  bytesPerSecond = Infinity;
  private last: Promise<unknown> = Promise.resolve();

  /** The same backend, slow to read. */
  over(backend: Backend): Backend {
    const read = backend.read.bind(backend);
    backend.read = (key) => {
      const turn = this.last.then(async () => {
        const bytes = await read(key);
        if (this.bytesPerSecond !== Infinity)
          await sleep((1000 * (bytes?.length ?? 0)) / this.bytesPerSecond);
        return bytes;
      });
      if (this.bytesPerSecond === Infinity) return read(key);
      this.last = turn.catch(() => undefined); // the reader is told
      return turn;
    };
    return backend;
  }
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
