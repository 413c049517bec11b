/**
 * One request for a range of a file, and what the answer says about the file. Redirects are followed; a token goes to
 * its own origin only. What may be tried again is told apart from what may not; nothing is tried again here.
 */
import { RUNTIME } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";

/** Redirects in a row that are followed; browsers follow by themselves, up to 20. */
const MAX_REDIRECTS = 10;

/** A server that wants a longer pause than this is taken at its word: the download ends with an error that says so. */
const MAX_RETRY_AFTER_MS = 5 * 60_000;

/** A secret, and the only origin that may see it. */
export interface Authorization {
  origin: string;
  token: string;
}

/** A file at an address. */
export interface Remote {
  url: string;
  authorization?: Authorization | undefined;
  /** The server names a file's SHA-256 as its ETag, as the Hub does for large files. */
  etagIsHash?: boolean;
}

/** What went wrong with one request, and whether another may do better. */
export class RequestProblem extends Error {
  readonly isTemporary: boolean;
  readonly status: number | undefined;
  /** How long the server wants to be left alone. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    isTemporary: boolean,
    about: { status?: number | undefined; retryAfterMs?: number | undefined } = {},
  ) {
    super(message);
    this.name = "RequestProblem";
    this.isTemporary = isTemporary;
    this.status = about.status;
    this.retryAfterMs = about.retryAfterMs;
  }
}

/** An answer that brings bytes; the caller reads or cancels its body. */
export interface RangeAnswer {
  body: ReadableStream<Uint8Array>;
  /** The whole file came although a range was asked for. */
  isWhole: boolean;
  start: number;
  /** The end, exclusive; undefined if the response does not name it. */
  end: number | undefined;
  totalBytes: number | undefined;
  /** ETag or date: another one is another file. */
  validator: string | undefined;
  /** SHA-256 of the file in hexadecimal, where the server gives one. */
  sha256: string | undefined;
  /** The address that answered, after redirects. */
  url: string;
}

interface Followed {
  response: Response;
  url: string;
  /** What the Hub says of the file in a redirect to where its bytes are. */
  linked: { etag: string | null; sizeBytes: string | null };
}

/** Follows redirects by hand where they can be seen, so that the token's way is ours to decide. */
export async function fetchFollowing(
  url: string,
  init: RequestInit,
  authorization?: Authorization,
): Promise<Followed> {
  const byHand = RUNTIME !== "browser";
  const linked: Followed["linked"] = { etag: null, sizeBytes: null };
  let at = new URL(url, globalThis.location?.href).href;
  for (let hops = 0; ; hops++) {
    const headers = {
      ...(init.headers as Record<string, string> | undefined),
      ...tokenFor(at, authorization),
    };
    const response = await fetch(at, { ...init, headers, redirect: byHand ? "manual" : "follow" });
    linked.etag ??= response.headers.get("x-linked-etag");
    linked.sizeBytes ??= response.headers.get("x-linked-size");
    const location = response.headers.get("location");
    const isRedirect = byHand && [301, 302, 303, 307, 308].includes(response.status) && location !== null;
    if (!isRedirect) return { response, url: response.redirected ? response.url : at, linked };
    await response.body?.cancel();
    if (hops === MAX_REDIRECTS) throw new RequestProblem(`redirects more than ${MAX_REDIRECTS} times`, false);
    at = redirected(location, at);
  }
}

function tokenFor(url: string, authorization: Authorization | undefined): Record<string, string> {
  if (authorization === undefined || new URL(url).origin !== authorization.origin) return {};
  return { Authorization: `Bearer ${authorization.token}` };
}

function redirected(location: string, from: string): string {
  const to = new URL(location, from);
  if (to.protocol === "https:" || to.protocol === new URL(from).protocol) return to.href;
  throw new RequestProblem(`redirects to ${to.protocol}//${to.host}, which is not https`, false);
}

/** Asks for [start, end). @throws RequestProblem */
export async function requestRange(
  remote: Remote,
  start: number,
  end: number,
  signal: AbortSignal,
): Promise<RangeAnswer> {
  const init = { headers: { Range: `bytes=${start}-${end - 1}` }, signal };
  const followed = await fetchOrProblem(remote, init);
  const { response } = followed;
  if (response.status === 206 || response.status === 200) return answerOf(remote, followed, start);
  await response.body?.cancel();
  if (response.status === 416 && /\/0$/.test(response.headers.get("content-range") ?? "")) {
    return { ...answerOf(remote, followed, 0), isWhole: true, end: 0, totalBytes: 0, body: emptyBody() };
  }
  throw statusProblem(response);
}

async function fetchOrProblem(remote: Remote, init: RequestInit): Promise<Followed> {
  try {
    return await fetchFollowing(remote.url, init, remote.authorization);
  } catch (error) {
    if (error instanceof RequestProblem || init.signal?.aborted) throw error;
    throw new RequestProblem(`cannot be reached: ${messageOf(error)}`, true);
  }
}

function answerOf(remote: Remote, { response, url, linked }: Followed, asked: number): RangeAnswer {
  const { headers, status, body } = response;
  const range = contentRange(headers.get("content-range"));
  const isWhole = status === 200;
  const declared = headers.get("content-encoding") === null ? headers.get("content-length") : null;
  const length = declared === null ? undefined : Number(declared);
  const total = isWhole ? length : (range?.totalBytes ?? wholeNumber(linked.sizeBytes));
  const start = isWhole ? 0 : (range?.start ?? asked);
  return {
    body: body ?? emptyBody(),
    isWhole,
    start,
    end: isWhole ? total : (range?.end ?? (length === undefined ? undefined : start + length)),
    totalBytes: total,
    validator: bareEtag(headers.get("etag")) ?? headers.get("last-modified") ?? undefined,
    sha256: hashOf(linked.etag) ?? (remote.etagIsHash ? hashOf(headers.get("etag")) : undefined),
    url,
  };
}

/**
 * The answer with the file's length, by a HEAD request where the server hides Content-Range from pages of other origins;
 * Content-Length is never hidden. @throws RequestProblem
 */
export async function withLength(
  remote: Remote,
  answer: RangeAnswer,
  signal: AbortSignal,
): Promise<RangeAnswer> {
  if (answer.isWhole || answer.totalBytes !== undefined) return answer;
  try {
    const { response } = await fetchOrProblem(remote, { method: "HEAD", signal });
    const isPlain = response.ok && response.headers.get("content-encoding") === null;
    const totalBytes = isPlain ? wholeNumber(response.headers.get("content-length")) : undefined;
    return { ...answer, totalBytes };
  } catch (error) {
    await answer.body.cancel();
    throw error;
  }
}

function emptyBody(): ReadableStream<Uint8Array> {
  return new ReadableStream({ start: (controller) => controller.close() });
}

function contentRange(
  header: string | null,
): { start: number; end: number; totalBytes?: number } | undefined {
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header ?? "");
  if (match === null) return undefined;
  const total = wholeNumber(match[3] ?? null);
  return {
    start: Number(match[1]),
    end: Number(match[2]) + 1,
    ...(total !== undefined && { totalBytes: total }),
  };
}

function wholeNumber(text: string | null): number | undefined {
  const value = text === null || !/^\d+$/.test(text) ? NaN : Number(text);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** The same file in another coding has a weak tag: it counts as the same. */
function bareEtag(header: string | null): string | undefined {
  return header === null ? undefined : header.replace(/^W\//, "");
}

function hashOf(etag: string | null): string | undefined {
  return /^(?:W\/)?"?([0-9a-f]{64})"?$/.exec(etag ?? "")?.[1];
}

/** Statuses after which the same request may succeed. */
const TEMPORARY = [408, 425, 429, 500, 502, 503, 504];

export function statusProblem(response: Response): RequestProblem {
  const { status, headers } = response;
  const retryAfterMs = retryAfter(headers.get("retry-after"));
  const isTemporary = TEMPORARY.includes(status) && (retryAfterMs ?? 0) <= MAX_RETRY_AFTER_MS;
  const wait = retryAfterMs === undefined ? "" : `, try again after ${Math.ceil(retryAfterMs / 1000)} s`;
  return new RequestProblem(`answered HTTP ${status}${wait}`, isTemporary, { status, retryAfterMs });
}

/** Seconds or a date. */
function retryAfter(header: string | null): number | undefined {
  if (header === null) return undefined;
  const seconds = wholeNumber(header.trim());
  if (seconds !== undefined) return seconds * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}

/** A request's problem as the error that a caller sees: it names the address. */
export function asSourceError(url: string, error: unknown, before = ""): TidepoolError {
  if (error instanceof TidepoolError) return error;
  const cause = error instanceof RequestProblem ? error.message : `cannot be read: ${messageOf(error)}`;
  const status = error instanceof RequestProblem ? error.status : undefined;
  const isAbsent = status === 404 || status === 410;
  const said = isAbsent ? `does not exist (HTTP ${status})` : cause;
  const details = { url, ...(status !== undefined && { status }) };
  return new TidepoolError(isAbsent ? "not_found" : "source", `${url} ${before}${said}`, details);
}

export function messageOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : "";
  return (error instanceof Error ? error.message : String(error)) + cause;
}
