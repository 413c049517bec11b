/**
 * A model loaded in this worker: opens GPU, file and store, builds the session, answers what is asked. Whom it answers is not
 * its business: the page alone (worker.ts) or several tabs (share.ts).
 */
import { TidepoolError, toWire } from "../errors.ts";
import { background } from "../base.ts";
import { endDevice, findProvider, openGpu, type Gpu } from "../gpu/device.ts";
import type { OpenedModel } from "../load/named-model.ts";
import { onceMoreIfChanged } from "../load/remote-load.ts";
import { shapeOf } from "../model/arch.ts";
import { kvBytesPerToken } from "../model/memory.ts";
import type { RunnerOptions } from "../model/runner.ts";
import type { TierStore } from "../tier/store.ts";
import { readAsk } from "./asks.ts";
import { missingCapabilities } from "./capabilities.ts";
import { openStore } from "./disk.ts";
import { openForLoad, timedPost } from "./models.ts";
import { gpuOptions, optionsAgain, runnerOptions } from "./options.ts";
import type { Call, Capability, EngineInfo, EngineOptions, ModelSpec, Notice, ToWorker } from "./protocol.ts";
import type { Reopen } from "./recovery.ts";
import { Session, type Post } from "./session.ts";

/** What a loaded model is asked. */
export type Ask = Extract<ToWorker, { type: "submit" | "abort" | "call" }>;

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

export class LocalEngine {
  private readonly post: Post;
  /** What the platform lacks beside what is found out here. */
  private readonly lacks: readonly Capability[];
  private session: Session | undefined;
  private gpu: Gpu | undefined;
  private loading: Endable | undefined;

  constructor(post: Post, lacks: readonly Capability[] = []) {
    this.post = post;
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
    this.loading?.controller.abort();
    await this.loading?.ended;
    await this.session?.close();
    this.session = undefined;
    if (this.gpu) await endDevice(this.gpu.device);
    this.gpu = undefined;
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
      this.post({ type: "answer", id, value: await this.session.call(call) });
    } catch (error) {
      this.post({ type: "refused", id, error: toWire(error) });
    }
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
      const chosen = runnerOptions(this.gpu, options);
      const onNotice = (notice: Notice): void => this.post({ type: "notice", notice });
      store = await openStore(cache, onNotice, kvBytesPerToken(shapeOf(opened.file), chosen));
      const more = {
        timeoutMs: options.textTimeoutMs,
        reopen: this.reopener(model, options),
        capabilities: [...(await missingCapabilities(this.gpu, options)), ...this.lacks],
      };
      loaded = await Session.load(
        this.gpu,
        opened.file,
        chosen,
        unlessEnded(timedPost(this.post), signal),
        store,
        cache,
        more,
      );
      await opened.finish();
      await opened.close();
      return loaded;
    } catch (error) {
      await opened?.close().catch(noResult); // the first failure is the one to tell
      if (loaded) await loaded.close();
      else await store?.close(0);
      if (this.gpu) await endDevice(this.gpu.device);
      throw error;
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
