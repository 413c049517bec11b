/** What the prefill service answers besides records: JSON, and errors in JSON. */
import { TidepoolError } from "../errors.ts";
import { HttpRefusal } from "../http-body.ts";

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
