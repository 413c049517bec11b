/**
 * A model loaded in this worker: opens GPU, file and store, builds the session, answers what is asked. Whom it answers is not
 * its business: the page alone (worker.ts) or several tabs (share/member.ts).
 */
import { TidepoolError, toWire } from "../errors.ts";
import { background } from "../base.ts";
import { endDevice, findProvider, openGpu, type Gpu } from "../gpu/device.ts";
import type { OpenedModel } from "../load/named-model.ts";
import { mayRestart } from "../load/download/file-download.ts";
import { onceMoreIfChanged } from "../load/download/remote-load.ts";
import { shapeOf } from "../model/arch/rows.ts";
import { kvBytesPerToken } from "../model/memory.ts";
import type { RunnerOptions } from "../model/runner.ts";
import type { TierStore } from "../tier/store/store.ts";
import { readAsk } from "./request/asks.ts";
import { missingCapabilities, missingOfExperts, missingOfStore } from "./capabilities.ts";
import { openStore } from "./cache/open-store.ts";
import { openForLoad, timedPost } from "./models.ts";
import { gpuOptions, optionsAgain, runnerOptions } from "./options.ts";
import type {
  Ask,
  Call,
  Capability,
  EngineInfo,
  EngineOptions,
  ModelSpec,
  Notice,
} from "../wire/protocol.ts";

export type { Ask } from "../wire/protocol.ts";
import type { Reopen } from "./recovery.ts";
import { HttpSource } from "./prefill/http-source.ts";
import { Session, type Post, type SessionOptions } from "./session.ts";

/** Work that can be ended; `ended` resolves when it is, and has given back what it held. */
export interface Endable {
  controller: AbortController;
  ended: Promise<void>;
}

/** Starts work that can be ended. */
export function endable<T>(start: (signal: AbortSignal) => Promise<T>): Endable & { work: Promise<T> } {
  const controller = new AbortController();
  const work = start(controller.signal);
  return { controller, work, ended: work.then(noResult, noResult) };
}

function noResult(): void {}

/** Tells of progress until the load is ended: then whoever tells, between two tensors or two pipelines, ends with `aborted`. */
function unlessEnded(post: Post, signal: AbortSignal): Post {
  return (message, transfer) => {
    if (message.type === "progress" && signal.aborted) {
      throw new TidepoolError("aborted", "loading was aborted");
    }
    post(message, transfer);
  };
}

/** How long closing waits for the check of a file that is here whole: half a gigabyte takes a browser about five seconds. */
const CHECK_LIMIT_MS = 5000;

async function atMost(ms: number, work: Promise<void> | undefined): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([work, new Promise((resolve) => (timer = setTimeout(resolve, ms)))]);
  clearTimeout(timer);
}

/** Throws at once if the work is known to fail; else it goes on by itself. */
async function unlessWrongAlready(work: Promise<void>): Promise<void> {
  await Promise.race([work, new Promise((resolve) => setTimeout(resolve))]);
  work.catch(noResult); // reported where its end is awaited
}

/** Tells, when the last pipeline is ready, that loading goes on. */
function withFinishing(post: Post): Post {
  return (message, transfer) => {
    post(message, transfer);
    if (message.type !== "progress") return;
    const { phase, done, total } = message.progress;
    if (phase === "pipelines" && done === total)
      post({ type: "progress", progress: { phase: "finishing", done: 0, total: 0 } });
  };
}

export class LocalEngine {
  private readonly post: Post;
  /** What the platform lacks beside what is found out here. */
  private readonly lacks: readonly Capability[];
  private readonly prefill: SessionOptions["prefill"];
  private session: Session | undefined;
  private gpu: Gpu | undefined;
  private loading: Endable | undefined;
  /** What is still to be kept and checked of the model's files. */
  private rest: Promise<void> | undefined;
  private opened: OpenedModel | undefined;
  private isClosing = false;

  /** @param prefill who computes long prompts, if not a service that the options name */
  constructor(post: Post, lacks: readonly Capability[] = [], prefill?: SessionOptions["prefill"]) {
    this.post = post;
    this.prefill = prefill;
    this.lacks = lacks;
  }

  /** Once. Rejects with what went wrong, `aborted` after `close`; nothing stays open then. */
  async load(model: ModelSpec, options: EngineOptions): Promise<EngineInfo> {
    const loading = endable((signal) => onceMoreIfChanged(() => this.loadOnce(model, options, signal)));
    this.loading = loading;
    try {
      this.session = await loading.work;
      return this.session.info;
    } finally {
      this.loading = undefined;
    }
  }

  /** What is wrong with a question is its asker's alone. */
  receive(ask: Ask): void {
    try {
      this.take(readAsk(ask));
    } catch (error) {
      this.post({ type: "refused", id: ask.id, error: toWire(error) });
    }
  }

  /** Ends the load under way, or every request. */
  async close(): Promise<void> {
    this.isClosing = true;
    this.loading?.controller.abort();
    await this.loading?.ended;
    await this.session?.close();
    await this.endFile();
    this.session = undefined;
    if (this.gpu) await endDevice(this.gpu.device);
    this.gpu = undefined;
  }

  private tellUnfinished(error: unknown, session: Session): void {
    if (mayRestart(error)) return session.giveUpAll(error); // not the file that was asked for
    const why = error instanceof Error ? error.message : String(error);
    const message = `the model runs, but its file is not kept whole (${why}): the rest comes at the next load`;
    this.post({ type: "notice", notice: { code: "models_unfinished", message } });
  }

  /** A file that lacks nothing but its check has time for that; a download goes on at the next load. */
  private async endFile(): Promise<void> {
    if (!this.opened) return;
    if (this.opened.isWhole()) await atMost(CHECK_LIMIT_MS, this.rest);
    await this.opened.close().catch(noResult); // what was kept is looked at again at the next load
    await this.rest;
  }

  private take(ask: Ask): void {
    if (ask.type === "call") return background(this.answer(ask.id, ask.call), ask.call.method);
    if (ask.type === "abort") return this.session?.abort(ask.id);
    if (!this.session) throw new TidepoolError("closed", "no model is loaded");
    this.session.submit(ask.id, ask.input, ask.params, ask.resume);
  }

  private async answer(id: number, call: Call): Promise<void> {
    try {
      if (!this.session) throw new TidepoolError("closed", "no model is loaded");
      this.post({ type: "answer", id, value: await this.session.call(call, id) });
    } catch (error) {
      this.post({ type: "refused", id, error: toWire(error) });
    }
  }

  private prefillOf({ prefill }: EngineOptions): SessionOptions["prefill"] {
    return this.prefill ?? (prefill && { source: new HttpSource(prefill), when: prefill.when });
  }

  /** Nothing stays open after a throw. */
  private async loadOnce(model: ModelSpec, options: EngineOptions, signal: AbortSignal): Promise<Session> {
    const { cache = {} } = options;
    let opened: OpenedModel | undefined;
    let store: TierStore | undefined;
    let loaded: Session | undefined;
    try {
      opened = await openForLoad(model, options, this.post, signal);
      this.gpu = await openGpu(await findProvider(), gpuOptions(options));
      const shape = shapeOf(opened.file);
      const chosen = runnerOptions(this.gpu, options, shape);
      const onNotice = (notice: Notice): void => this.post({ type: "notice", notice });
      store = await openStore(cache, onNotice, kvBytesPerToken(shape, chosen));
      const more = {
        timeoutMs: options.textTimeoutMs,
        objectives: options.objectives,
        expertPredictor: options.expertPredictor,
        reopen: this.reopener(model, options),
        prefill: this.prefillOf(options),
        capabilities: [
          ...(await missingCapabilities(this.gpu, options)),
          ...missingOfStore(shape, cache),
          ...missingOfExperts(shape, options),
          ...this.lacks,
        ],
      };
      loaded = await Session.load(
        this.gpu,
        opened.file,
        chosen,
        unlessEnded(withFinishing(timedPost(this.post)), signal),
        store,
        cache,
        more,
      );
      await unlessWrongAlready(opened.finish());
      this.opened = opened;
      this.rest = this.finishFile(opened, loaded);
      background(this.rest, "the rest of a download");
      return loaded;
    } catch (error) {
      await opened?.close().catch(noResult); // the first failure is the one to tell
      if (loaded) await loaded.close();
      else await store?.close(0);
      if (this.gpu) await endDevice(this.gpu.device);
      throw error;
    }
  }

  /**
   * Keeps the rest of the model's files and checks all of it, while the model answers. What is damaged ends the engine; what
   * it computed is kept under the damaged weights' own fingerprint, and is of no use to the right ones.
   */
  private async finishFile(opened: OpenedModel, session: Session): Promise<void> {
    try {
      await opened.finish();
    } catch (error) {
      if (!this.isClosing) this.tellUnfinished(error, session);
    } finally {
      if (!session.readsFile) await opened.close();
    }
  }

  /** Opens device and model once more, after the device was lost; what was downloaded comes from where it is kept. */
  private reopener(model: ModelSpec, options: EngineOptions): Reopen {
    const quiet: Post = (message) => message.type === "notice" && this.post(message);
    return async (signal) => {
      const opened = await openForLoad(model, options, quiet, signal);
      try {
        this.gpu = await openGpu(await findProvider(), gpuOptions(options));
      } catch (error) {
        await opened.close().catch(noResult); // the first failure is the one to tell
        throw error;
      }
      const close = async (): Promise<void> => {
        await opened.finish();
        await opened.close();
      };
      const { gpu } = this;
      const capabilities = [...(await missingCapabilities(gpu, options)), ...this.lacks];
      const again = (before: RunnerOptions) => optionsAgain(gpu, options, before);
      return { gpu, file: opened.file, again, capabilities, close };
    };
  }
}
