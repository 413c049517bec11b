/**
 * The Hub: lists a repository's files, says which of them is the model, and where each one is. It reads one small JSON
 * document and downloads nothing else.
 */
import { TidepoolError } from "../../errors.ts";
import { asSourceError, fetchFollowing, RequestProblem, statusProblem, type Authorization } from "./http.ts";
import type { Remote } from "./http.ts";
import { baseName } from "../source.ts";
import { DEFAULT_REVISION, hubModelName, type HubName } from "../model-name.ts";

const DEFAULT_HUB = "https://huggingface.co";

/** A listing is smaller than this; a larger one is refused. */
const MAX_LISTING_BYTES = 32 * 1024 * 1024;
const MAX_FILES = 100_000;
/** Choices that an error lists. */
const MAX_CHOICES = 40;

/**
 * The Hub from which models are downloaded.
 *
 * @example
 * ```ts
 * const hub: HubOptions = { baseUrl: "https://hub.example", token: "hf_..." };
 * const options: LoadOptions = { hub };
 * ```
 */
export interface HubOptions {
  /** Address of the Hub, or of a compatible server. Default: the public Hub. */
  baseUrl?: string | undefined;
  /** A token for private and gated repositories; sent only to the Hub's own origin. */
  token?: string | undefined;
}

export interface HubFile {
  /** Path in the repository. */
  path: string;
  sizeBytes?: number;
  /** SHA-256 in hexadecimal, for large files. */
  sha256?: string;
}

/** A repository at one commit. */
export interface HubListing {
  /** The commit that the revision meant when it was asked. */
  commit: string;
  files: HubFile[];
}

/** The Hub's address without a slash at its end. @throws TidepoolError `invalid_argument` */
export function hubBase({ baseUrl = DEFAULT_HUB }: HubOptions): string {
  if (/^https?:\/\/[^/?#]+/.test(baseUrl)) return baseUrl.replace(/\/+$/, "");
  throw new TidepoolError("invalid_argument", `hub.baseUrl is ${baseUrl}, expected an http or https address`);
}

export function hubAuthorization(hub: HubOptions): Authorization | undefined {
  return hub.token === undefined || hub.token === ""
    ? undefined
    : { origin: new URL(hubBase(hub)).origin, token: hub.token };
}

/** Where a repository's listing is. */
export function listingUrl(hub: HubOptions, { repo, revision }: Pick<HubName, "repo" | "revision">): string {
  return `${hubBase(hub)}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
}

/** Where a file of a repository is at a commit. */
export function hubRemote(hub: HubOptions, repo: string, commit: string, path: string): Remote {
  const file = path.split("/").map(encodeURIComponent).join("/");
  const url = `${hubBase(hub)}/${repo}/resolve/${encodeURIComponent(commit)}/${file}`;
  return { url, authorization: hubAuthorization(hub), etagIsHash: true };
}

/** Asks the Hub for a repository's files. @throws RequestProblem where it may be tried again, else TidepoolError */
export async function listRepository(
  hub: HubOptions,
  name: HubName,
  signal: AbortSignal,
): Promise<HubListing> {
  const url = listingUrl(hub, name);
  const text = await fetchText(hub, name, url, signal);
  const listing = parseListing(text);
  if (listing === undefined) {
    throw new TidepoolError("source", `${url} answered something else than a list of files`, { url });
  }
  return listing;
}

async function fetchText(hub: HubOptions, name: HubName, url: string, signal: AbortSignal): Promise<string> {
  const init = { headers: { Accept: "application/json" }, signal };
  const { response } = await fetchFollowing(url, init, hubAuthorization(hub)).catch((error: unknown) => {
    if (signal.aborted || error instanceof RequestProblem) throw error;
    throw new RequestProblem(asSourceError(url, error).message, true);
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw refusal(hub, name, response);
  }
  return boundedText(url, response);
}

/** The Hub answers 401 for what does not exist, too, so as not to tell. */
function refusal(hub: HubOptions, name: HubName, response: Response): Error {
  const problem = statusProblem(response);
  const { status } = response;
  if (problem.isTemporary || ![401, 403, 404].includes(status)) return problem;
  const what = `${hubModelName(name)} at ${hubBase(hub)}`;
  const token = hub.token ? "this token may not see it" : "it needs a token";
  const why =
    status === 404 ? "there is no such repository or revision" : `there is none of this name, or ${token}`;
  return new TidepoolError("not_found", `${what} cannot be had: ${why} (HTTP ${status})`, { status });
}

async function boundedText(url: string, response: Response): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length <= MAX_LISTING_BYTES) continue;
    throw new TidepoolError("source", `${url} is longer than ${MAX_LISTING_BYTES} bytes`, { url });
  }
  return text + decoder.decode();
}

/** A listing from the Hub or from a record; undefined if it is malformed. */
export function parseListing(text: string): HubListing | undefined {
  try {
    const { sha, siblings } = JSON.parse(text) as { sha?: unknown; siblings?: unknown };
    if (!Array.isArray(siblings) || siblings.length > MAX_FILES) return undefined;
    const files = siblings.map(parseFile).filter((file) => file !== undefined);
    return { commit: typeof sha === "string" && /^[\w.-]+$/.test(sha) ? sha : DEFAULT_REVISION, files };
  } catch {
    return undefined;
  }
}

function parseFile(value: unknown): HubFile | undefined {
  const { rfilename, size, lfs } = (value ?? {}) as Record<string, unknown>;
  if (typeof rfilename !== "string" || rfilename.split("/").some((part) => part === "" || part === ".."))
    return undefined;
  const { sha256, size: lfsSize } = (lfs ?? {}) as Record<string, unknown>;
  const sizeBytes = lfsSize ?? size;
  return {
    path: rfilename,
    ...(Number.isSafeInteger(sizeBytes) && { sizeBytes: sizeBytes as number }),
    ...(typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256) && { sha256 }),
  };
}

/** What a listing looks like on the wire; for records, which are read by the same parser. */
export function listingText({ commit, files }: HubListing): string {
  const siblings = files.map(({ path, sizeBytes: size, sha256 }) => ({
    rfilename: path,
    ...(size !== undefined && { size }),
    ...(sha256 !== undefined && { lfs: { sha256, size } }),
  }));
  return JSON.stringify({ sha: commit, siblings });
}

const LATER_SHARD = /-(?!00001-of-)\d{5}-of-\d{5}\.gguf$/;
/** Companions of a model, such as a vision projector, that are no models. */
const COMPANION = /^(mmproj|imatrix)/i;

/**
 * The path of a repository's model: the file that was named, or the only GGUF; undefined for a repository of
 * safetensors, which is opened as a folder.
 * @throws TidepoolError `not_found`, or `invalid_argument` with the choices where there are several.
 */
export function chooseFile(name: HubName, { files }: HubListing): string | undefined {
  const model = hubModelName(name);
  const weights = files.map(({ path }) => path).filter((path) => /\.(gguf|safetensors)$/.test(path));
  if (name.file !== undefined) {
    if (files.some(({ path }) => path === name.file)) return name.file;
    const there = weights.length > 0 ? `; it has ${choices(weights)}` : "";
    throw new TidepoolError("not_found", `${model} has no file ${name.file}${there}`, { choices: weights });
  }
  const ggufs = weights.filter(
    (path) => path.endsWith(".gguf") && !LATER_SHARD.test(path) && !COMPANION.test(baseName(path)),
  );
  if (ggufs.length === 1) return ggufs[0];
  if (ggufs.length > 1) {
    const said = `${model} has ${ggufs.length} models; say which: ${choices(ggufs.map((path) => `${name.repo}/${path}`))}`;
    throw new TidepoolError("invalid_argument", said, { choices: ggufs });
  }
  if (weights.some((path) => !path.includes("/")) && files.some(({ path }) => path === "config.json")) {
    return undefined;
  }
  throw new TidepoolError("not_found", `${model} has neither a GGUF file nor safetensors with a config.json`);
}

function choices(paths: readonly string[]): string {
  const rest = paths.length - MAX_CHOICES;
  return `${paths.slice(0, MAX_CHOICES).join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}
