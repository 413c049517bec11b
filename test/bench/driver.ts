/**
 * Gives this process the GPU that the tests run on: the same set-up, its first Node runtime or the one that is named.
 * Call it before WebGPU is first touched.
 */
import { driverEnv } from "../support/machine.ts";
import { setUp } from "../support/setup.ts";

/** Sets the driver in this process's environment, which children inherit. @returns the runtime's name. */
export async function chooseDriver(wanted: string | undefined, log: (line: string) => void): Promise<string> {
  const { runtimes } = await setUp(log);
  const inNode = runtimes.filter(({ program }) => program === "node");
  const runtime = wanted === undefined ? inNode[0] : inNode.find(({ name }) => name === wanted);
  if (!runtime) {
    throw new Error(`no runtime "${wanted}" here; there are ${inNode.map(({ name }) => name).join(", ")}`);
  }
  Object.assign(process.env, driverEnv(runtime.driverFile));
  if (runtime.driverFile === undefined) delete process.env["VK_DRIVER_FILES"];
  return runtime.name;
}
