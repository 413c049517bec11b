/** The flags of every command that has an engine, and the engine that they ask for. */
import { Option, type Command } from "commander";
import { Engine } from "../engine/engine.ts";
import { policyNames } from "../sim/index.ts";
import { refuseValue } from "../check.ts";
import { TidepoolError } from "../errors.ts";
import type {
  CacheOptions,
  EngineObjectives,
  EngineOptions,
  Notice,
  PrefillOptions,
} from "../wire/protocol.ts";
import { decimal, oneOf, readBytes, size, whole, withoutUndefined } from "./flags.ts";
import { sourceOptions, withBar, withSourceOptions, type SourceFlags } from "./commands/models.ts";
import { resolveModel, RUNNABLE_NAMES } from "./shipped.ts";

export interface ObjectiveFlags {
  ttftMs?: number;
  tbtMs?: number;
  deadlineMs?: number;
  rejection?: NonNullable<EngineObjectives["rejection"]>;
}

export interface EngineFlags extends SourceFlags, ObjectiveFlags {
  dtype?: "f32" | "f16" | "auto";
  kvDtype?: "f32" | "f16" | "q8" | "q4" | "q2";
  blockTokens?: number;
  chunkTokens?: number;
  adapter?: string;
  powerPreference?: NonNullable<EngineOptions["powerPreference"]>;
  memory?: number;
  maxRequests?: number;
  tables?: "gpu" | "file";
  expertMemory?: number;
  expertRam?: number;
  experts?: "exact" | "bounded";
  expertPolicy?: NonNullable<EngineOptions["expertPolicy"]>;
  expertPrediction?: boolean;
  expertPredictor?: string;
  subgroups: boolean;
  cacheDir?: string;
  gpuCache?: number;
  ramCache?: number;
  diskCache?: number;
  restore?: "auto" | "load" | "compute" | "both";
  policy?: NonNullable<CacheOptions["policy"]>;
  prefillUrl?: string;
  prefillKey?: string;
  prefillWhen?: NonNullable<PrefillOptions["when"]>;
}

/** What `--policy` takes: every policy but the one that knows the future. */
const POLICIES = policyNames.filter((name) => name !== "offline");

const EXPERT_POLICIES = Object.keys({
  ...{ lru: true, lfu: true, static: true, "moe-infinity": true, promoe: true },
} satisfies Record<NonNullable<EngineOptions["expertPolicy"]>, true>);

/** What may be named as a model. */
export const MODEL_HELP = `a model shipped with Tidepool (${RUNNABLE_NAMES.join(", ")}), a Hub id (org/repo or org/repo/file.gguf, optionally with @revision), or the path or URL of a GGUF file or of a folder with safetensors`;

export function withEngineOptions(command: Command, maxRequests = 1): Command {
  return withSourceOptions(command)
    .addOption(
      new Option("--dtype <type>", "type of arithmetic and activations").choices(["f32", "f16", "auto"]),
    )
    .addOption(
      new Option("--kv-dtype <type>", "type of stored keys and values").choices([
        "f32",
        "f16",
        "q8",
        "q4",
        "q2",
      ]),
    )
    .option("--block-tokens <n>", "tokens per KV block: 16, 32 or 64", oneOf(16, 32, 64))
    .option("--chunk-tokens <n>", "most prompt tokens per prefill step", whole(1, 512))
    .option("--adapter <name-part>", "refuse an adapter whose name does not contain this")
    .addOption(
      new Option("--power-preference <which>", "adapter to ask for if there are several").choices([
        "high-performance",
        "low-power",
      ]),
    )
    .option("--memory <size>", "most GPU memory that the model may take, such as 2GB", size(1))
    .addOption(
      new Option(
        "--tables <place>",
        "where a table of per-layer embeddings is: on the GPU, or in the model's file",
      ).choices(["gpu", "file"]),
    )
    .option("--expert-memory <size>", "most GPU memory for the experts of a mixture of experts", size(1))
    .option("--expert-ram <size>", "most RAM for experts that are not on the GPU", size(0))
    .addOption(
      new Option(
        "--experts <mode>",
        "whether a token waits for each expert that is not on the GPU, or those that matter little are computed with low-bit copies, which take 2.6 bits a weight of --expert-memory",
      ).choices(["exact", "bounded"]),
    )
    .addOption(
      new Option("--expert-policy <name>", "which experts leave the GPU first").choices(EXPERT_POLICIES),
    )
    .option("--no-expert-prediction", "fetch experts only when a layer waits for them")
    .option(
      "--expert-predictor <file>",
      "a predictor that was trained for the model, in place of its routers",
    )
    .option("--max-requests <n>", "most requests that run at once, 1 to 16", whole(1, 16), maxRequests)
    .option("--no-subgroups", "do not use subgroup operations")
    .option("--verbose", "also show the messages of the GPU library");
}

const isAboveZero = decimal("above 0", (ms) => ms > 0);

/** What requests are promised; a request for which it cannot be kept is rejected. */
export function withObjectives(command: Command): Command {
  return command
    .option("--ttft-ms <ms>", "reject a request whose first token would take longer", isAboveZero)
    .option("--tbt-ms <ms>", "reject a request whose tokens would be further apart", isAboveZero)
    .option("--deadline-ms <ms>", "reject a request whose last token would take longer", isAboveZero)
    .addOption(
      new Option(
        "--rejection <mode>",
        "when a request is rejected: on arrival by the predicted load or by the present one, or when it is too late",
      ).choices(["predicted", "early", "none"]),
    );
}

export function withCacheOptions(command: Command): Command {
  return command
    .option("--cache-dir <dir>", "store computed keys and values in this folder")
    .option("--gpu-cache <size>", "most memory for the KV pool on the GPU, such as 512MB", size(1))
    .option("--ram-cache <size>", "budget of the RAM tier", size(0))
    .option("--disk-cache <size>", "budget of the disk tier", size(0))
    .addOption(
      new Option(
        "--policy <name>",
        "cache policy: what is evicted first, and which snapshots are taken",
      ).choices(POLICIES),
    )
    .addOption(
      new Option("--restore <way>", "how stored blocks are restored").choices([
        "auto",
        "load",
        "compute",
        "both",
      ]),
    );
}

export function withPrefillOptions(command: Command): Command {
  return command
    .option(
      "--prefill-url <url>",
      "let the prefill service at this address compute long prompts, whose tokens then leave this machine",
    )
    .option(
      "--prefill-key <key>",
      "the service's key; default: the environment variable TIDEPOOL_PREFILL_KEY",
    )
    .addOption(
      new Option("--prefill-when <when>", "send prompts if that promises to be faster, or always").choices([
        "faster",
        "always",
      ]),
    );
}

/** @throws TidepoolError `invalid_argument` if the key is missing */
function prefillOptions({ prefillUrl: url, prefillKey, prefillWhen: when }: EngineFlags): EngineOptions {
  if (url === undefined && (prefillKey !== undefined || when !== undefined))
    refuseValue("prefill.url", url, "the address of the prefill service");
  if (url === undefined) return {};
  const key = prefillKey ?? process.env["TIDEPOOL_PREFILL_KEY"];
  if (key === undefined) refuseValue("prefill.key", key, "the key that the service printed");
  return { prefill: { url, key, ...(when && { when }) } };
}

function cacheOptions(flags: EngineFlags): CacheOptions {
  const { cacheDir, ramCache, diskCache, restore, policy } = flags;
  return withoutUndefined({ directory: cacheDir, ramBytes: ramCache, diskBytes: diskCache, restore, policy });
}

/** Loads a model; what the storage has to say, and what the platform lacks, goes to standard error. */
export async function load(model: string, flags: EngineFlags): Promise<Engine> {
  const onNotice = ({ code, message }: Notice) => process.stderr.write(`tidepool: ${code}: ${message}\n`);
  const pool = flags.gpuCache === undefined ? {} : { poolBytes: flags.gpuCache };
  const { expertPredictor: file } = flags;
  const predictor = file === undefined ? {} : { expertPredictor: await readBytes(file) };
  const cache = cacheOptions(flags);
  const options = {
    ...engineOptions(flags),
    ...pool,
    ...predictor,
    ...prefillOptions(flags),
    cache,
    onNotice,
  };
  const engine = await withBar((onProgress) =>
    Engine.load(resolveModel(model), { ...options, onProgress }).catch((error: unknown) => {
      throw file === undefined ? error : ofPredictor(file, error);
    }),
  );
  engine.info.capabilities.forEach(onNotice);
  return engine;
}

/** The engine knows a predictor as its option's bytes; here it is a file. */
function ofPredictor(file: string, error: unknown): unknown {
  if (!(error instanceof TidepoolError) || error.details["file"] !== "expertPredictor") return error;
  const message = error.message.replace("expertPredictor", file);
  return new TidepoolError(error.code, message, { ...error.details, file });
}

export function engineOptions(flags: EngineFlags): EngineOptions {
  const { dtype, kvDtype, blockTokens, chunkTokens, adapter, subgroups, memory, maxRequests, tables } = flags;
  const { powerPreference, expertMemory, expertRam, expertPolicy, expertPrediction, experts } = flags;
  const { ttftMs, tbtMs, deadlineMs, rejection } = flags;
  const objectives = withoutUndefined({ ttftMs, tbtMs, deadlineMs, rejection });
  const given = {
    dtype,
    kvDtype,
    blockTokens,
    chunkTokens,
    adapter,
    powerPreference,
    memoryBytes: memory,
    maxRequests,
    tables,
    expertMemory,
    expertRamBytes: expertRam,
    expertPolicy,
    expertPrediction: expertPrediction === false ? false : undefined,
    experts,
    subgroups: subgroups ? undefined : false,
    objectives: Object.keys(objectives).length > 0 ? objectives : undefined,
  };
  return { ...(withoutUndefined(given) as EngineOptions), ...sourceOptions(flags) };
}
