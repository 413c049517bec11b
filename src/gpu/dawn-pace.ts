/**
 * How often Dawn looks for answers in Node: by itself in every turn of the event loop while anything is awaited of it, so that
 * any wait keeps a whole core busy, which a software driver needs itself. Each look also leaves a function with a finalizer behind:
 * tens of thousands a second end in collections of hundreds of milliseconds. Here the thread takes a nap before each look, and once
 * Dawn has looked in vain for a while its turns come by a timer. Nothing here knows what is awaited.
 */

/** The thread sleeps before a look; what else has come waits as long. A timer cannot be as short. */
const NAP_MS = 0.1;

/** How long Dawn may look after each nap, from when it was last asked or last answered: a step of decode is over by then, and a timer would make it later. */
const EAGER_MS = 100;

/** How long it rests between two looks afterwards. */
const REST_MS = 1;

/**
 * Paces what Dawn asks of `setImmediate`, for the life of the thread; all others get what they ask for.
 * @param quietMs how long ago Dawn was last asked for something or last answered
 */
export function paceDawn(quietMs: () => number): void {
  /** Nobody wakes who sleeps on it. Made here: pages load this file too, and most have no shared memory. */
  const bed = new Int32Array(new SharedArrayBuffer(4));
  globalThis.setImmediate = new Proxy(globalThis.setImmediate, {
    apply(plain, self, given: Parameters<typeof setImmediate>) {
      const [look] = given;
      if (isDawns(look)) {
        if (quietMs() > EAGER_MS) return setTimeout(look, REST_MS);
        Atomics.wait(bed, 0, 0, NAP_MS);
      }
      return Reflect.apply(plain, self, given) as unknown;
    },
  });
}

/** Dawn's is a function of C++, without a name; what `bind` makes is native too, and has one. */
const isDawns = (look: () => void): boolean => look.name === "" && NATIVE.test(FUNCTION_TEXT.call(look));

const FUNCTION_TEXT = Function.prototype.toString;
const NATIVE = /^function \(\) \{ \[native code\] \}$/;
