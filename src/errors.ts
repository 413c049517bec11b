/**
 * Every error that a caller may want to catch, each with a literal `code`, and their way over the worker's wire.
 * Our own mistakes are `assert` failures (base.ts) and are not listed here.
 */

/**
 * The codes of errors, one for each problem that a caller can act on.
 *
 * @example
 * ```ts
 * const canRetry = new Set<ErrorCode>(["source", "device_lost", "gpu_failed"]);
 * const error = await Engine.load("absent.gguf").catch((error: TidepoolError) => error);
 * console.log(error instanceof TidepoolError && canRetry.has(error.code)); // false
 * ```
 */
export type ErrorCode =
  | "invalid_argument" // a call's argument is wrong
  | "invalid_file" // a model file, tokenizer or record is malformed
  | "untrusted" // an archive is not signed by a trusted key, or differs from what the model computes
  | "unsupported" // an architecture, format or feature that Tidepool does not have
  | "not_found" // a path, URL or named model does not exist
  | "source" // reading a source failed (network, file system)
  | "no_adapter" // there is no WebGPU adapter, or none that the model can run on
  | "device_lost" // the GPU device went away
  | "gpu_failed" // the GPU refused or dropped a request's work twice; the device is still there
  | "not_finite" // the model computed NaN or infinity for this request
  | "out_of_memory" // GPU memory or pool space is not enough
  | "too_long" // a request is longer than the model or the pool allows
  | "rejected" // the scheduler refused a request early
  | "timed_out" // a model's chat template or tokenizer exceeded its time limit and was stopped
  | "aborted" // the caller's signal fired
  | "closed" // the engine was closed
  | "worker_died" // the engine's worker ended unexpectedly, or that of a shared engine does not answer
  | "internal"; // a bug in Tidepool

/**
 * The error that every call of the library throws or rejects with.
 *
 * @example
 * ```ts
 * try {
 *   await Engine.load("tide-dense.gguf", { blockTokens: 7 });
 * } catch (error) {
 *   if (!(error instanceof TidepoolError)) throw error;
 *   console.log(error.code, error.details["option"]); // invalid_argument blockTokens
 * }
 * ```
 */
export class TidepoolError extends Error {
  /**
   * What went wrong, as a constant to compare with.
   *
   * @example
   * ```ts
   * const error = await Engine.load("absent.gguf").catch((error: TidepoolError) => error);
   * if (error instanceof TidepoolError) console.log(error.code); // not_found
   * ```
   */
  readonly code: ErrorCode;
  /**
   * Plain values that belong to the error, such as the option, file or limit that it names.
   *
   * @example
   * ```ts
   * const error = await engine.generate([]).result().catch((error: TidepoolError) => error);
   * if (error instanceof TidepoolError) console.log(error.details); // e.g. { option: 'prompt', ... }
   * ```
   */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: Record<string, unknown> = {}) {
    super(message);
    this.name = "TidepoolError";
    this.code = code;
    this.details = details;
  }
}

/** Codes of errors that a model's file decides, by what it holds or by its size. */
const FILE_CODES: ReadonlySet<ErrorCode> = new Set(["invalid_file", "unsupported", "out_of_memory"]);

/** The same error, naming the file at fault if it does not yet. What a caller did wrong stays as it is. */
export function inFile<E>(file: string, error: E): E | TidepoolError {
  if (!(error instanceof TidepoolError)) return error;
  if (!FILE_CODES.has(error.code) || error.details["file"] !== undefined) return error;
  const named = new TidepoolError(error.code, `${file}: ${error.message}`, { ...error.details, file });
  if (error.stack !== undefined) named.stack = error.stack;
  return named;
}

/** An error as plain data, for a message between threads. */
export interface WireError {
  code: ErrorCode;
  message: string;
  details: Record<string, unknown>;
  stack?: string;
}

export function toWire(error: unknown): WireError {
  if (error instanceof TidepoolError) {
    return { code: error.code, message: error.message, details: { ...error.details }, ...stackOf(error) };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { code: "internal", message, details: {}, ...stackOf(error) };
}

export function fromWire(wire: WireError): TidepoolError {
  const error = new TidepoolError(wire.code, wire.message, wire.details);
  if (wire.stack !== undefined) error.stack = wire.stack;
  return error;
}

function stackOf(error: unknown): { stack?: string } {
  return error instanceof Error && error.stack !== undefined ? { stack: error.stack } : {};
}
