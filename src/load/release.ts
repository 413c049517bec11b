/**
 * Gives the memory of bytes that are no longer needed back at once. A load makes hundreds of megabytes pass in arrays
 * that the platform allocates (the network's chunks, a Blob's slices), and a garbage collector that sees only small
 * objects lets tens of megabytes of them lie. It forces no collection, and owns nothing that it frees: the caller does.
 */

/** A port without another side: what is transferred through it is detached, and dropped. */
let nowhere: MessagePort | undefined;

/**
 * Frees an array's memory; the array has length 0 from then on. An array that is a view of a larger buffer is left alone,
 * since others may look at the rest, and so is a buffer that cannot be detached.
 *
 * `buffer.transfer(0)` would detach it too, but Chromium keeps such memory until a full collection: a tab that loaded 317 MB
 * from a file kept 324 MiB of it, and so it is measured (test/bench/measure-load-chromium.ts) in processes, not in the heap.
 */
export function release(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (!(buffer instanceof ArrayBuffer) || bytes.byteLength !== buffer.byteLength) return;
  try {
    (nowhere ??= openNowhere()).postMessage(null, [buffer]);
  } catch {
    // A buffer that is not to be detached, as WebAssembly's: the collector's, as it would have been.
  }
}

function openNowhere(): MessagePort {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  return port1;
}
