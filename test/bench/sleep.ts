/**
 * Waits to a fraction of a millisecond without using a processor: a thread sleeps, where a timer of the event loop is late by up to
 * a millisecond. In Node alone.
 */
import { Worker } from "node:worker_threads";

/** Runs in the thread: each message is a time to wake at, in milliseconds since 1970, none before the one ahead of it. */
const THREAD = `
  const { parentPort } = require("node:worker_threads");
  const cell = new Int32Array(new SharedArrayBuffer(4));
  parentPort.on("message", (wakeMs) => {
    const leftMs = wakeMs - (performance.timeOrigin + performance.now());
    if (leftMs > 0) Atomics.wait(cell, 0, 0, leftMs);
    parentPort.postMessage(0);
  });
`;

/** @returns a function that waits until a time of `performance.now()`; calls whose times come in order wait side by side */
export function sleeper(): (untilMs: number) => Promise<void> {
  const waiting: (() => void)[] = [];
  const thread = new Worker(THREAD, { eval: true });
  thread.on("message", () => waiting.shift()?.());
  thread.unref();
  return (untilMs) =>
    new Promise((resolve) => {
      waiting.push(resolve);
      thread.postMessage(performance.timeOrigin + untilMs);
    });
}
