/** What every HTTP door answers alike: JSON, errors in JSON, and bodies that are read within a bound. */
import { TidepoolError } from "../errors.ts";

/** A refusal, as a status and what is wrong. */
export class HttpRefusal extends Error {
  readonly status: number;
  readonly code: string;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, code: string, message: string, headers: Record<string, string> = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }
}

/** Statuses of the errors that a request may cause; all others are ours. */
const STATUS: Readonly<Record<string, number>> = {
  invalid_argument: 400,
  too_long: 413,
  rejected: 503,
  out_of_memory: 503,
  closed: 503,
};

/** An error as an answer. What is not the asker's to know is not told. */
export function refusalOf(error: unknown): Response {
  if (error instanceof HttpRefusal)
    return json({ error: { code: error.code, message: error.message } }, error.status, error.headers);
  if (!(error instanceof TidepoolError))
    return json({ error: { code: "internal", message: "an error inside the service" } }, 500);
  const { code, message } = error;
  return json({ error: { code, message } }, STATUS[code] ?? 500);
}

export function json(value: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): Response {
  return Response.json(value, { status, headers: { "Cache-Control": "no-store", ...headers } });
}

/** A request's JSON body. @throws HttpRefusal 413, 400 */
export async function readJson(request: Request, maxBytes: number): Promise<unknown> {
  const text = new TextDecoder().decode(await readBody(request, maxBytes));
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new HttpRefusal(400, "invalid_argument", "the body is not JSON");
  }
}

async function readBody(request: Request, maxBytes: number): Promise<Uint8Array> {
  const tooLarge = (): HttpRefusal =>
    new HttpRefusal(413, "too_long", `the body is larger than ${maxBytes} bytes`, { Connection: "close" });
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge();
  const parts: Uint8Array[] = [];
  let bytes = 0;
  const reader = request.body?.getReader();
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes += value.length;
    if (bytes > maxBytes) throw tooLarge(); // not cancelled: the connection lives on for the answer
    parts.push(value);
  }
  const whole = new Uint8Array(bytes);
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}
