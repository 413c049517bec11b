/**
 * Preloaded into a process whose workers a test kills: each worker obeys an order to die, for real. It exits only when
 * none of its maps of the GPU is under way, since Dawn would end the whole process with it; it may throw at any time. Plain JavaScript: threads preload no TypeScript.
 */
import { BroadcastChannel, isMainThread } from "node:worker_threads";

if (!isMainThread) await obey();

async function obey() {
  const { globals } = await import("webgpu");
  const { prototype } = globals.GPUBuffer;
  const { mapAsync } = prototype;
  let underWay = 0;
  let die;
  prototype.mapAsync = function (...args) {
    if (die) return new Promise(() => {}); // nothing new begins
    underWay++;
    return mapAsync.apply(this, args).finally(() => {
      if (--underWay === 0) die?.();
    });
  };
  const orders = new BroadcastChannel("tidepool test orders");
  orders.onmessage = ({ data: { file, how } }) => {
    if (!process.argv[1].endsWith(file)) return;
    if (how === "throw") {
      setImmediate(() => {
        throw new Error("killed by the test");
      });
      return;
    }
    die = () => process.exit(7);
    if (underWay === 0) die();
  };
  orders.unref();
}
