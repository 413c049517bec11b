/**
 * `tidepool serve`: puts a loaded model behind HTTP. So far that is the prefill service, which computes prompts for other engines; it
 * runs until it is told to end.
 */
import process from "node:process";
import type { Command } from "commander";
import { TidepoolError } from "../../errors.ts";
import { newKey, prefillService, serveHttp, type RunningServer } from "../../serve/index.ts";
import { load, MODEL_HELP, withCacheOptions, withEngineOptions, type EngineFlags } from "../engine-flags.ts";
import { texts, whole } from "../flags.ts";
import { print } from "../print.ts";
import { DEFAULT_MODEL } from "../shipped.ts";

const DEFAULT_PORT = 8033;
const LOOPBACK = "127.0.0.1";
const LOOPBACKS = [LOOPBACK, "::1", "localhost"];

/** Prompts that are computed at once, unless flags say otherwise. */
const DEFAULT_UNDER_WAY = 4;

interface ServeFlags extends EngineFlags {
  prefillService?: boolean;
  port: number;
  host: string;
  key?: string;
  allowOrigin?: string[];
}

async function serve(model: string = DEFAULT_MODEL, flags: ServeFlags): Promise<void> {
  if (!flags.prefillService)
    throw new TidepoolError("invalid_argument", "nothing to serve: expected --prefill-service");
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
): Promise<RunningServer> {
  if (!LOOPBACKS.includes(host))
    process.stderr.write(
      `tidepool: warning: ${host} may be reached from other machines, and over http: others on the way can read key and prompts; an https proxy or an SSH tunnel prevents that\n`,
    );
  try {
    return await serveHttp(handler, { host, port });
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
    .description("serve a model over HTTP, to other engines of this or another machine");
  withEngineOptions(withCacheOptions(command), DEFAULT_UNDER_WAY)
    .argument("[model]", `${MODEL_HELP}; default: ${DEFAULT_MODEL}`)
    .option("--prefill-service", "compute prompts for engines that run the same model")
    .option("--port <n>", "port to listen on; 0: any that is free", whole(0, 65_535), DEFAULT_PORT)
    .option("--host <address>", "address to listen on; only this machine reaches the default", LOOPBACK)
    .option(
      "--key <key>",
      "key that askers must send; default: the environment variable TIDEPOOL_PREFILL_KEY, else a new one, which is printed",
    )
    .option("--allow-origin <origin>", "let pages of this origin ask; repeatable", texts)
    .action(serve);
}
