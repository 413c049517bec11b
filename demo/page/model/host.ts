/**
 * The page's one engine: which model is loaded, how loading proceeds, what failed. Every watching view is notified.
 * It knows nothing of the DOM, and keeps no conversation.
 */
import {
  Engine,
  inspect,
  TidepoolError,
  type LoadProgress,
  type Model,
  type Notice,
} from "../../../src/index.ts";
import { background } from "../background.ts";
import { keepStored } from "../keep-stored.ts";
import { readSetting, writeSetting } from "../kept-settings.ts";
import { shippedModels, type Shipped } from "./shipped.ts";

/** A model that can be loaded, and what to call it meanwhile. */
export interface Choice {
  name: string;
  model: Model;
}

export interface HostState {
  engine?: Engine;
  loading?: { name: string; progress?: LoadProgress };
  /** Why the last choice could not be loaded. */
  problem?: { name: string; error: unknown };
  /** What the engine and its storage had to say, the newest last; of each kind one. */
  notices?: readonly Notice[];
}

/** Under which the last model is remembered. */
const KEY = "model";
const DOWNLOADED = "downloaded";

/** Whether a model was ever fetched here: only then is it worth a worker to look for what is kept of it. */
export const hasDownloaded = (): boolean => readSetting(DOWNLOADED) !== undefined;

export class Host {
  state: HostState = {};
  private readonly watchers: ((state: HostState) => void)[] = [];
  private attempt: AbortController | undefined;
  private choice: Choice | undefined;
  private isKept = false;

  /** Calls now and after each change. */
  watch(watcher: (state: HostState) => void): void {
    this.watchers.push(watcher);
    watcher(this.state);
  }

  /** Loads a model in place of the one before; a later call ends an earlier one. The engine, or none if it failed. */
  async load(choice: Choice): Promise<Engine | undefined> {
    this.attempt?.abort();
    const attempt = new AbortController();
    this.attempt = attempt;
    this.set({ ...this.kept(), loading: { name: choice.name } });
    noteDownload(choice); // at its start: what came before a tab was closed is offered again
    try {
      const engine = await this.open(choice, attempt.signal);
      this.choice = choice;
      remember(choice);
      this.set({ ...this.noticed(), engine });
      this.keepOnce();
      return engine;
    } catch (error) {
      if (this.attempt === attempt) this.fail(choice.name, error);
      return undefined;
    }
  }

  /** What a first message loads: the last model that can be found again, or the first of those that are shipped. */
  usual(): Choice | undefined {
    const [shipped] = shippedModels;
    return remembered() ?? (shipped && { name: shipped.name, model: shipped.url });
  }

  /** The model that is loaded. */
  get loaded(): Choice | undefined {
    return this.state.engine && this.choice;
  }

  /** The model that answers, or would, if it is one that comes with the page. */
  shipped(): Shipped | undefined {
    const model = (this.state.engine ? this.choice : this.usual())?.model;
    return shippedModels.find(({ url }) => url === model);
  }

  /** Ends the loading under way. */
  cancel(): void {
    this.attempt?.abort();
  }

  /** Loads the last model once more, as after the loss of its worker. */
  async reload(): Promise<void> {
    if (this.choice) await this.load(this.choice);
  }

  /** The engine before is given up only for a model whose header can be read and would run. */
  private async open({ model }: Choice, signal: AbortSignal): Promise<Engine> {
    if (this.state.engine) {
      await orAborted(this.assertRuns(model, signal), signal);
      const before = this.state.engine;
      this.set({ ...(this.state.loading && { loading: this.state.loading }) });
      await before.close();
    }
    const engine = await Engine.load(model, {
      ...{ share: true, signal },
      onProgress: (progress) => this.progress(progress, signal),
      onNotice: (notice) => this.set({ ...this.state, notices: withNotice(this.state.notices, notice) }),
      onChange: (changed) => changed === this.state.engine && this.set({ ...this.state }),
    });
    if (!signal.aborted) return engine;
    await engine.close();
    throw new TidepoolError("aborted", "loading was aborted");
  }

  /** @throws TidepoolError saying why the model would not run. */
  private async assertRuns(model: Model, signal: AbortSignal): Promise<void> {
    const onProgress = (progress: LoadProgress): void => this.progress(progress, signal);
    const { runs, problems } = await inspect(model, { signal, onProgress });
    if (!runs) throw new TidepoolError("unsupported", problems.join("; "));
  }

  private progress(progress: LoadProgress, signal: AbortSignal): void {
    if (signal.aborted || !this.state.loading) return;
    this.set({ ...this.kept(), loading: { ...this.state.loading, progress } });
  }

  private fail(name: string, error: unknown): void {
    const cancelled = error instanceof TidepoolError && error.code === "aborted";
    this.set({ ...this.kept(), ...(!cancelled && { problem: { name, error } }) });
  }

  private kept(): HostState {
    return { ...this.noticed(), ...(this.state.engine && { engine: this.state.engine }) };
  }

  private noticed(): HostState {
    return this.state.notices ? { notices: this.state.notices } : {};
  }

  /** There is something worth keeping once a model has been loaded: earlier, a question about it would come from nowhere. */
  private keepOnce(): void {
    if (!this.isKept) background(keepStored());
    this.isKept = true;
  }

  private set(state: HostState): void {
    this.state = state;
    for (const watcher of this.watchers) watcher(state);
  }
}

const isShipped = (model: Model): boolean => shippedModels.some(({ url }) => url === model);

function noteDownload({ model }: Choice): void {
  if (!isShipped(model) && (typeof model === "string" || model instanceof URL))
    writeSetting(DOWNLOADED, "yes");
}

/** How many notices are shown at most. */
const MAX_NOTICES = 4;

/** Adds a notice in the place of its like; a disk that is back ends what was said of it. */
function withNotice(before: readonly Notice[] = [], notice: Notice): Notice[] {
  const isOver = ({ code }: Notice): boolean =>
    code === notice.code || (notice.code === "disk_back" && code.startsWith("disk_"));
  return [...before.filter((one) => !isOver(one)), notice].slice(-MAX_NOTICES);
}

/** Files cannot be found again after a reload; addresses and shipped models can. */
function remember({ name, model }: Choice): void {
  if (isShipped(model)) writeSetting(KEY, JSON.stringify({ name }));
  else if (typeof model === "string") writeSetting(KEY, JSON.stringify({ name, model }));
  else if (model instanceof URL) writeSetting(KEY, JSON.stringify({ name, model: model.href }));
}

function remembered(): Choice | undefined {
  const { name, model } = JSON.parse(readSetting(KEY) ?? "{}") as { name?: string; model?: string };
  if (name === undefined) return undefined;
  if (model !== undefined) return { name, model };
  const shipped = shippedModels.find((one) => one.name === name);
  return shipped && { name, model: shipped.url };
}

function orAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(new TidepoolError("aborted", "loading was aborted"));
    signal.addEventListener("abort", abort, { once: true });
    work.finally(() => signal.removeEventListener("abort", abort)).then(resolve, reject);
  });
}
