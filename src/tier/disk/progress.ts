/**
 * Signs of life of a medium that is at work: each finished step of work that others wait for. It does not judge how long
 * is too long (timer.ts), and a failed step is none.
 */
import type { Appender, Medium, StepSource } from "./backend.ts";

export class Progress implements StepSource {
  private readonly listeners = new Set<() => void>();

  /** Calls `listener` after each step until the returned function is called. */
  on(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  tell(): void {
    for (const listener of this.listeners) listener();
  }
}

/** The medium, with each finished step told. */
export function watched(medium: Medium, progress: Progress): Medium {
  const step = async <T>(work: Promise<T>): Promise<T> => {
    const result = await work;
    progress.tell();
    return result;
  };
  const appender = (file: Appender): Appender => ({
    append: (parts) => step(file.append(parts)),
    sync: () => step(file.sync()),
    close: () => step(file.close()),
  });
  return {
    name: medium.name,
    list: () => step(medium.list()),
    create: async (name) => appender(await step(medium.create(name))),
    read: (name, offset, length) => step(medium.read(name, offset, length)),
    remove: (name) => step(medium.remove(name)),
    lock: (writer) => step(medium.lock(writer)),
    close: () => step(medium.close()),
  };
}
