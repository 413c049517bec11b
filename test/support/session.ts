/** A session on the test's own device, without a worker: what it posts is gathered, and blocks can be counted. */
import { TidepoolError, fromWire } from "../../src/errors.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import { openModel, type ModelFile } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type { TierStore } from "../../src/tier/store/store.ts";
import { readAsk } from "../../src/worker/request/asks.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import type { RunnerOptions } from "../../src/model/runner.ts";
import { runnerOptions } from "../../src/worker/options.ts";
import type {
  EngineOptions,
  FromWorker,
  GenerateParams,
  GenerationResult,
  RequestInput,
  Resume,
  StepOutput,
} from "../../src/wire/protocol.ts";
import { Session, type SessionOptions } from "../../src/worker/session.ts";

/** An engine's, and those that no caller has. */
export type TestOptions = EngineOptions &
  Pick<RunnerOptions, "stateStartSlots" | "expertAblation" | "unimportantAbove">;

interface Running {
  steps: StepOutput[];
  onStep: (output: StepOutput) => void;
  resolve: (result: GenerationResult) => void;
  reject: (error: TidepoolError) => void;
}

/** Stands where the engine and the wire do in life. */
export class TestSession {
  readonly session: Session;
  /** All that was posted but steps and progress. */
  readonly posted: FromWorker[];
  private readonly running: Map<number, Running>;
  private nextId = 1;

  private constructor(session: Session, running: Map<number, Running>, posted: FromWorker[]) {
    this.session = session;
    this.running = running;
    this.posted = posted;
  }

  /** @param store lower tiers, closed with the session; default: none */
  static async load(
    gpu: Gpu,
    model: Uint8Array,
    options: TestOptions = {},
    store?: TierStore,
  ): Promise<TestSession> {
    return TestSession.open(gpu, await openModel([openBytes(model, "model.gguf")]), options, store);
  }

  /** Takes the file over. */
  static async open(
    gpu: Gpu,
    file: ModelFile,
    { stateStartSlots, expertAblation, unimportantAbove, ...options }: TestOptions = {},
    store?: TierStore,
    more?: SessionOptions,
  ): Promise<TestSession> {
    const running = new Map<number, Running>();
    const posted: FromWorker[] = [];
    const post = (message: FromWorker) => {
      if (message.type !== "step" && message.type !== "progress") posted.push(message);
      receive(running, message);
    };
    const chosen = {
      ...runnerOptions(gpu, options, shapeOf(file)),
      ...(stateStartSlots !== undefined && { stateStartSlots }),
      ...(expertAblation && { expertAblation }),
      ...(unimportantAbove !== undefined && { unimportantAbove }),
    };
    const { objectives } = options;
    const all = { ...(objectives && { objectives }), ...more };
    const session = await Session.load(gpu, file, chosen, post, store, options.cache, all);
    return new TestSession(session, running, posted);
  }

  /** Runs a request; `onStep` hears of each step and may abort by the id it is given. */
  generate(
    input: RequestInput,
    params: GenerateParams = {},
    onStep: (output: StepOutput) => void = () => {},
    resume?: Resume,
  ): { id: number; done: Promise<GenerationResult>; steps: StepOutput[] } {
    const id = this.nextId++;
    const steps: StepOutput[] = [];
    const done = new Promise<GenerationResult>((resolve, reject) => {
      this.running.set(id, { steps, onStep, resolve, reject });
    });
    try {
      const ask = { type: "submit" as const, id, input, params, ...(resume && { resume }) };
      const read = readAsk(ask) as typeof ask;
      this.session.submit(id, read.input, read.params, read.resume);
    } catch (error) {
      this.running.get(id)?.reject(error as TidepoolError);
    }
    return { id, done, steps };
  }

  /** The conservation check, with nothing running: every block must be free. */
  checkIdle(): void {
    const { scheduler } = this.session;
    this.session.check();
    if (scheduler.activeCount !== 0) throw new Error(`${scheduler.activeCount} requests are still active`);
    if (scheduler.usedBlocks !== 0) throw new Error(`${scheduler.usedBlocks} blocks were not returned`);
  }

  async close(): Promise<void> {
    await this.session.close();
  }
}

function receive(running: Map<number, Running>, message: FromWorker): void {
  switch (message.type) {
    case "step":
      for (const output of message.outputs) {
        running.get(output.id)?.steps.push(output);
        running.get(output.id)?.onStep(output);
      }
      break;
    case "finished":
      running.get(message.id)?.resolve(message.result);
      break;
    case "refused":
      running.get(message.id)?.reject(fromWire(message.error));
      break;
    case "progress":
    case "loaded":
    case "header":
    case "failed":
    case "answer":
    case "notice":
    case "cacheEvents":
    case "recovering":
    case "info":
    case "closed":
    case "prefillAsk":
      break;
  }
}
