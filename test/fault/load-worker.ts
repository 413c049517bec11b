/**
 * The thread in which mutants are loaded: it announces each before it begins, so that whoever watches knows which one hangs,
 * and counts the bytes that are asked for through ArrayBuffer and the typed arrays.
 */
import { parentPort, workerData } from "node:worker_threads";
import { mutantOf } from "./load-mutants.ts";
import { seedModels } from "./load-seeds.ts";
import { loadOnProcessor, type Verdict } from "./load-target.ts";

export interface FuzzJob {
  root: string;
  /** Folder of the golden models, where there is one. */
  goldens: string | undefined;
  seed: number;
  from: number;
  to: number;
  maxBytes: number;
}

export type FuzzMessage =
  | { type: "models"; count: number }
  | { type: "begin"; number: number }
  | { type: "end"; number: number; verdict?: Verdict; failure?: string; bytes: number; ms: number };

const job = workerData as FuzzJob;
const post = (message: FuzzMessage): void => parentPort?.postMessage(message);

let bytesAsked = 0;

/** Replaces a global constructor by one that counts before it allocates. */
function count(name: string, bytesOf: (args: readonly unknown[]) => number): void {
  const scope = globalThis as unknown as Record<string, new (...args: unknown[]) => object>;
  const Native = scope[name] as new (...args: unknown[]) => object;
  scope[name] = new Proxy(Native, {
    construct(target, args: unknown[], newTarget) {
      bytesAsked += bytesOf(args);
      if (bytesAsked > job.maxBytes) throw new Error(`${bytesAsked} bytes asked for through ${name}`);
      return Reflect.construct(target, args, newTarget === scope[name] ? target : newTarget) as object;
    },
  });
}

count("ArrayBuffer", ([length]) => Number(length));
for (const type of ["Uint8", "Int8", "Uint16", "Int16", "Uint32", "Int32", "Float32", "Float64"]) {
  const name = `${type}Array`;
  const { BYTES_PER_ELEMENT: size } = (
    globalThis as unknown as Record<string, { BYTES_PER_ELEMENT: number }>
  )[name] as { BYTES_PER_ELEMENT: number };
  count(name, ([first]) =>
    typeof first === "number" ? first * size : Array.isArray(first) ? first.length * size : 0,
  );
}

const { goldens } = job;
const models = seedModels(
  job.root,
  goldens === undefined ? undefined : (name) => `${goldens}/${name}/model.gguf`,
);
post({ type: "models", count: models.length });

for (let number = job.from; number < job.to; number++) {
  post({ type: "begin", number });
  const { files, what } = mutantOf(models, job.seed, number);
  bytesAsked = 0;
  const started = performance.now();
  let verdict: Verdict | undefined;
  let failure: string | undefined;
  try {
    verdict = await loadOnProcessor(files);
  } catch (error) {
    failure = `${what}\n${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  }
  const end = { type: "end", number, bytes: bytesAsked, ms: performance.now() - started } as const;
  post({ ...end, ...(verdict && { verdict }), ...(failure !== undefined && { failure }) });
}
