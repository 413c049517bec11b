/** What a started worker is to whoever started it. Starting is spawn.ts and spawn-node.ts. */

/** A worker under way, the same in browsers, Deno and Node. */
export interface Spawned<ToIt, FromIt> {
  post(message: ToIt, transfer?: Transferable[]): void;
  /** Says who hears; replaces the listeners before. `onDeath` is told why it died. */
  listen(onMessage: (message: FromIt) => void, onDeath: (why: string) => void): void;
  /** Node: whether the process lives on for this worker's sake; at first it does. Elsewhere this does nothing. */
  keepAlive(on: boolean): void;
  /** Ends it, in Node after it has ended its work on the GPU. */
  terminate(): Promise<void>;
}
