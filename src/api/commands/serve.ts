/**
 * `tidepool serve`: models behind HTTP until it is told to end. Usually OpenAI's API on one model or several; with --prefill-service the
 * service that computes prompts for other engines.
 */
import process from "node:process";
import { basename } from "node:path";
import type { Command } from "commander";
import { TidepoolError } from "../../errors.ts";
import { newKey, prefillService, serveHttp, type RunningServer } from "../../serve/index.ts";
import { ModelShelf } from "../../serve/model-shelf.ts";
import { OpenAiService } from "../../serve/openai-service.ts";
import {
  load,
  MODEL_HELP,
  withCacheOptions,
  withEngineOptions,
  withObjectives,
  type EngineFlags,
} from "../engine-flags.ts";
import { size, texts, whole } from "../flags.ts";
import { print } from "../print.ts";
import { DEFAULT_MODEL } from "../shipped.ts";

const DEFAULT_PORT = 8033;
const LOOPBACK = "127.0.0.1";
const LOOPBACKS = [LOOPBACK, "::1", "localhost"];

/** Requests or prompts that are computed at once, unless flags say otherwise. */
const DEFAULT_UNDER_WAY = 4;

/** Connections at once, and the longest that answers may take to end after the server was told to, unless flags say otherwise. */
const DEFAULT_CONNECTIONS = 512;
const DEFAULT_DRAIN_SECONDS = 30;

interface ServeFlags extends EngineFlags {
  prefillService?: boolean;
  port: number;
  host: string;
  key?: string;
  apiKey?: string;
  parallel?: number;
  modelsMemory?: number;
  maxConnections: number;
  drainSeconds: number;
  allowOrigin?: string[];
}

async function serve(given: readonly string[], flags: ServeFlags): Promise<void> {
  const models = given.length > 0 ? given : [DEFAULT_MODEL];
  const maxRequests = flags.parallel ?? flags.maxRequests ?? DEFAULT_UNDER_WAY;
  if (flags.prefillService) await servePrefill(models, { ...flags, maxRequests });
  else await serveModels(models, { ...flags, maxRequests });
}

/** Loads the first model at once, so that what is wrong with it is told now; the others when they are asked for. */
async function serveModels(models: readonly string[], flags: ServeFlags): Promise<void> {
  const { allowOrigin: origins, maxConnections, modelsMemory, drainSeconds } = flags;
  const isPublic = !LOOPBACKS.includes(flags.host);
  const given = flags.apiKey ?? process.env["TIDEPOOL_API_KEY"];
  const key = given ?? (isPublic ? newKey() : undefined);
  const named = namesOf(models);
  const ending = told();
  const shelf = new ModelShelf(
    named.map(({ name, model }) => ({ name, load: () => load(model, flags) })),
    modelsMemory,
  );
  try {
    (await shelf.open()).release();
    const service = new OpenAiService(shelf, { key, origins });
    const server = await listen((request) => service.fetch(request), flags, maxConnections);
    print(`OpenAI's API with ${named.map(({ name }) => name).join(", ")} at ${server.url}/v1\n`);
    if (given === undefined && key !== undefined) print(`key: ${key}\n`);
    await ending;
    service.isDraining = true;
    const again = told();
    const closed = server.close(1000 * drainSeconds);
    await Promise.race([closed, again.then(() => server.close())]); // told twice: at once
  } finally {
    await shelf.close();
  }
}

interface NamedModel {
  name: string;
  model: string;
}

/** What models are called: as NAME=MODEL says, else by their file's name, or as they stand. @throws TidepoolError `invalid_argument` */
function namesOf(models: readonly string[]): NamedModel[] {
  const named = models.map((word) => {
    const [, name, model] = /^([\w.-]+)=(.+)$/.exec(word) ?? [];
    if (name !== undefined && model !== undefined) return { name, model };
    const isFile = /\.(gguf|safetensors)$/.test(word);
    return { name: isFile ? basename(word).replace(/\.\w+$/, "") : word, model: word };
  });
  const twice = named.find(({ name }, i) => named.findIndex((other) => other.name === name) < i);
  if (!twice) return named;
  throw new TidepoolError(
    "invalid_argument",
    `two models are called ${twice.name}: name one, as in other=${twice.model}`,
  );
}

async function servePrefill(
  [model = DEFAULT_MODEL, ...more]: readonly string[],
  flags: ServeFlags,
): Promise<void> {
  if (more.length > 0)
    throw new TidepoolError(
      "invalid_argument",
      `${more.length + 1} models: expected one with --prefill-service`,
    );
  const given = flags.key ?? process.env["TIDEPOOL_PREFILL_KEY"];
  const key = given ?? newKey();
  const ending = told();
  const engine = await load(model, flags);
  try {
    const { maxRequests, allowOrigin: origins } = flags;
    const service = await prefillService(engine, { key, maxUnderWay: maxRequests, origins });
    const server = await listen(service.fetch, flags);
    print(`prefill service of ${engine.info.model.name} at ${server.url}\n`);
    if (given === undefined) print(`key: ${key}\n`);
    await ending;
    await server.close();
  } finally {
    await engine.close();
  }
}

async function listen(
  handler: (request: Request) => Promise<Response>,
  { host, port }: ServeFlags,
  maxConnections?: number,
): Promise<RunningServer> {
  if (!LOOPBACKS.includes(host))
    process.stderr.write(
      `tidepool: warning: ${host} may be reached from other machines, and over http: others on the way can read key and prompts; an https proxy or an SSH tunnel prevents that\n`,
    );
  try {
    return await serveHttp(handler, { host, port, maxConnections });
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === undefined) throw error;
    throw new TidepoolError(
      "invalid_argument",
      `cannot listen on port ${port} of ${host} (${code}): choose another --port or --host`,
    );
  }
}

/** Resolves when this process is told to end, or the one above it is gone. */
function told(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => resolve());
    process.once("disconnect", () => resolve());
  });
}

export function addServe(root: Command): void {
  const command = root
    .command("serve")
    .description("serve models over HTTP with OpenAI's API, or compute prompts for other engines");
  withEngineOptions(withObjectives(withCacheOptions(command)), DEFAULT_UNDER_WAY)
    .argument("[models...]", `NAME=MODEL, or ${MODEL_HELP}; default: ${DEFAULT_MODEL}`)
    .option("--parallel <n>", "the same as --max-requests", whole(1, 16))
    .option(
      "--api-key <key>",
      "key that clients must send; default: the environment variable TIDEPOOL_API_KEY, else none on loopback, and a new one, which is printed, beyond it",
    )
    .option(
      "--models-memory <size>",
      "most GPU memory for all loaded models; the one used least recently is ended first",
      size(1),
    )
    .option("--max-connections <n>", "most connections at once", whole(1, 65_536), DEFAULT_CONNECTIONS)
    .option(
      "--drain-seconds <s>",
      "longest that answers may go on after SIGINT or SIGTERM; a second signal ends them",
      whole(0, 86_400),
      DEFAULT_DRAIN_SECONDS,
    )
    .option("--prefill-service", "compute prompts for engines that run the same model")
    .option("--port <n>", "port to listen on; 0: any that is free", whole(0, 65_535), DEFAULT_PORT)
    .option("--host <address>", "address to listen on; only this machine reaches the default", LOOPBACK)
    .option(
      "--key <key>",
      "key that engines must send to the prefill service; default: the environment variable TIDEPOOL_PREFILL_KEY, else a new one, which is printed",
    )
    .option("--allow-origin <origin>", "let pages of this origin ask; repeatable", texts)
    .action(serve);
}
