/** What went wrong, in OpenAI's shape: a status, and an object that says what and which field. */
import { TidepoolError, type ErrorCode } from "../errors.ts";
import { HttpRefusal } from "../http-body.ts";

/** The body of an error. */
export interface FaultBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

/** An answer that is an error. */
export interface Fault {
  status: number;
  body: FaultBody;
  headers: Record<string, string>;
}

interface Kind {
  status: number;
  type: string;
  code?: string;
}

const BAD_REQUEST: Kind = { status: 400, type: "invalid_request_error" };
const SERVER: Kind = { status: 500, type: "server_error" };

/** Errors that requests may meet; all others are the server's. */
const KINDS: Partial<Record<ErrorCode, Kind>> = {
  invalid_argument: BAD_REQUEST,
  unsupported: { ...BAD_REQUEST, code: "unsupported_parameter" },
  too_long: { ...BAD_REQUEST, code: "context_length_exceeded" },
  not_found: { status: 404, type: "invalid_request_error", code: "model_not_found" },
  rejected: { status: 429, type: "rate_limit_error", code: "rejected" },
  aborted: { status: 499, type: "request_aborted", code: "aborted" },
  timed_out: { status: 400, type: "invalid_request_error", code: "timed_out" },
  closed: { status: 503, type: "server_error", code: "closed" },
  out_of_memory: { status: 503, type: "server_error", code: "out_of_memory" },
};

/** What is told if nothing is known of when there is room again. */
const RETRY_AFTER_MS = 1000;

/** An error as an answer; what is not the asker's to know is not told. */
export function faultOf(error: unknown): Fault {
  if (error instanceof HttpRefusal) return refused(error);
  if (!(error instanceof TidepoolError)) return fault(SERVER, "an error inside the server", null);
  const { code, message, details } = error;
  const kind = KINDS[code] ?? { ...SERVER, code };
  const param = typeof details["option"] === "string" ? details["option"] : null;
  return { ...fault(kind, message, param), headers: code === "rejected" ? waitingTime(details) : {} };
}

function refused({ status, code, message, headers }: HttpRefusal): Fault {
  const type = status === 401 ? "authentication_error" : "invalid_request_error";
  return { ...fault({ status, type, code }, message, null), headers: { ...headers } };
}

function fault({ status, type, code }: Kind, message: string, param: string | null): Fault {
  return { status, body: { error: { message, type, param, code: code ?? null } }, headers: {} };
}

/** Whole seconds for everybody, and milliseconds for OpenAI's clients. */
function waitingTime({ retryAfterMs = RETRY_AFTER_MS }: TidepoolError["details"]): Record<string, string> {
  const ms = Math.max(1, Math.ceil(Number(retryAfterMs)));
  return { "Retry-After": String(Math.ceil(ms / 1000)), "retry-after-ms": String(ms) };
}
