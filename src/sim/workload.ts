/**
 * Seeded workloads: traces made from stated parameters, equal for equal seeds. Tokens are runs of numbers, so that equal
 * pieces are equal prefixes; there is no text in them.
 */
import { Random } from "../base.ts";
import { workload as workloadRule } from "./arguments.ts";
import type { Trace, TraceRequest } from "./trace.ts";
import { TokenRuns } from "./trace.ts";
import type {
  AgentWorkload,
  ChatWorkload,
  Common,
  DocumentWorkload,
  FewShotWorkload,
  LengthOf,
  Workload,
} from "./settings.ts";
export type {
  AgentWorkload,
  ChatWorkload,
  DocumentWorkload,
  FewShotWorkload,
  LengthOf,
  Workload,
} from "./settings.ts";

const common: Common = { seed: 1, sessionsPerSecond: 1, pauseSeconds: 15 };

/**
 * One workload of each kind, to start from.
 *
 * @example
 * ```ts
 * const trace = generate({ ...defaultWorkloads.documents, sessions: 10, seed: 7 });
 * ```
 */
export const defaultWorkloads = {
  chat: {
    ...common,
    kind: "chat",
    sessions: 200,
    systemPrompts: 8,
    systemTokens: { median: 600, sigma: 0.5 },
    turns: { median: 6, sigma: 0.6 },
    userTokens: { median: 60, sigma: 0.9 },
    outputTokens: { median: 220, sigma: 0.7 },
  },
  agents: {
    ...common,
    pauseSeconds: 5,
    kind: "agents",
    sessions: 60,
    instructionTokens: { median: 900, sigma: 0 },
    taskTokens: { median: 500, sigma: 0.6 },
    turns: { median: 20, sigma: 0.4 },
    observationTokens: { median: 500, sigma: 0.9 },
    outputTokens: { median: 180, sigma: 0.6 },
    observationsKept: 5,
  },
  documents: {
    ...common,
    kind: "documents",
    sessions: 150,
    documents: 40,
    documentTokens: { median: 6000, sigma: 0.7 },
    turns: { median: 3, sigma: 0.5 },
    questionTokens: { median: 30, sigma: 0.5 },
    outputTokens: { median: 150, sigma: 0.6 },
  },
  "few-shot": {
    ...common,
    kind: "few-shot",
    sessions: 1000,
    templates: 20,
    instructionTokens: { median: 150, sigma: 0.4 },
    shots: 5,
    shotTokens: { median: 200, sigma: 0.4 },
    queryTokens: { median: 80, sigma: 0.6 },
    outputTokens: { median: 40, sigma: 0.5 },
  },
} satisfies { [Kind in Workload["kind"]]: Extract<Workload, { kind: Kind }> };

/** Sessions are cut once a prompt is longer than this, as in Marconi's traces. */
const maxInputTokens = 32_768;

/**
 * Generates the trace of a workload. Equal parameters and seeds give equal traces.
 * @throws TidepoolError `invalid_argument`, with the parameter's name
 *
 * @example
 * ```ts
 * const { requests } = generate({ ...defaultWorkloads.chat, sessions: 10, seed: 7 });
 * console.log(requests.length >= 10); // true
 * ```
 */
export function generate(given: Workload): Trace {
  const workload = workloadRule.read(given, "workload");
  const maker = new Maker(workload.seed);
  const requests: TraceRequest[] = [];
  for (let session = 0; session < workload.sessions; session++) {
    let timestampMs = (session / workload.sessionsPerSecond) * 1000;
    for (const { input, output } of maker.session(workload, session)) {
      const inputTokens = input.reduce((sum, piece) => sum + piece.length, 0);
      if (inputTokens > maxInputTokens) break;
      const pieces = [...input, output];
      requests.push({
        timestampMs,
        inputTokens,
        outputTokens: output.length,
        inputSymbols: inputTokens,
        pieces,
      });
      timestampMs += maker.pauseMs(workload.pauseSeconds);
    }
  }
  requests.sort((a, b) => a.timestampMs - b.timestampMs);
  return { name: `${workload.kind} (seed ${workload.seed})`, symbolTokens: 1, requests };
}

interface Turn {
  input: Int32Array[];
  output: Int32Array;
}

class Maker {
  private readonly random: Random;
  private readonly runs = new TokenRuns();
  /** Lengths of shared pieces, drawn once. */
  private readonly shared = new Map<string, number>();

  constructor(seed: number) {
    this.random = new Random(seed);
  }

  pauseMs(meanSeconds: number): number {
    return -Math.log(1 - this.random.next()) * meanSeconds * 1000;
  }

  session(workload: Workload, session: number): Iterable<Turn> {
    switch (workload.kind) {
      case "chat":
        return this.chat(workload, session);
      case "agents":
        return this.agent(workload, session);
      case "documents":
        return this.questions(workload, session);
      case "few-shot":
        return this.fewShot(workload, session);
    }
  }

  private *chat(workload: ChatWorkload, session: number): Generator<Turn> {
    const turns = this.length(workload.turns);
    let input = [this.sharedPiece(`system ${this.zipf(workload.systemPrompts)}`, workload.systemTokens)];
    for (let turn = 0; turn < turns; turn++) {
      input = [...input, this.piece(`${session} ${turn} user`, workload.userTokens)];
      const output = this.piece(`${session} ${turn} output`, workload.outputTokens);
      yield { input, output };
      input = [...input, output];
    }
  }

  private *agent(workload: AgentWorkload, session: number): Generator<Turn> {
    const turns = this.length(workload.turns);
    const head = [
      this.sharedPiece("instruction", workload.instructionTokens),
      this.piece(`${session} task`, workload.taskTokens),
    ];
    const steps: { observation: Int32Array; output: Int32Array }[] = [];
    for (let turn = 0; turn < turns; turn++) {
      const observation = this.piece(`${session} ${turn} observation`, workload.observationTokens);
      const output = this.piece(`${session} ${turn} output`, workload.outputTokens);
      const firstKept = steps.length - workload.observationsKept;
      const past = steps.flatMap((step, i) =>
        i < firstKept ? [step.output] : [step.observation, step.output],
      );
      yield { input: [...head, ...past, observation], output };
      steps.push({ observation, output });
    }
  }

  private *questions(workload: DocumentWorkload, session: number): Generator<Turn> {
    const document = this.sharedPiece(`document ${this.zipf(workload.documents)}`, workload.documentTokens);
    const turns = this.length(workload.turns);
    for (let turn = 0; turn < turns; turn++) {
      const question = this.piece(`${session} ${turn} question`, workload.questionTokens);
      yield {
        input: [document, question],
        output: this.piece(`${session} ${turn} output`, workload.outputTokens),
      };
    }
  }

  private *fewShot(workload: FewShotWorkload, session: number): Generator<Turn> {
    const template = this.zipf(workload.templates);
    const shots = Array.from({ length: workload.shots }, (_, i) =>
      this.sharedPiece(`shot ${template} ${i}`, workload.shotTokens),
    );
    const instruction = this.sharedPiece(`template ${template}`, workload.instructionTokens);
    const query = this.piece(`${session} query`, workload.queryTokens);
    yield {
      input: [instruction, ...shots, query],
      output: this.piece(`${session} output`, workload.outputTokens),
    };
  }

  private piece(key: string, tokens: LengthOf): Int32Array {
    return this.runs.get(key, this.length(tokens));
  }

  private sharedPiece(key: string, tokens: LengthOf): Int32Array {
    const length = this.shared.get(key) ?? this.length(tokens);
    this.shared.set(key, length);
    return this.runs.get(key, length);
  }

  /** At least 1, at most maxInputTokens. */
  private length({ median, sigma }: LengthOf): number {
    const drawn = Math.round(median * Math.exp(sigma * this.random.normal()));
    return Math.min(maxInputTokens, Math.max(1, drawn));
  }

  /** 0 with weight 1, 1 with weight 1/2, 2 with weight 1/3, ... */
  private zipf(count: number): number {
    let total = 0;
    for (let i = 1; i <= count; i++) total += 1 / i;
    let left = this.random.next() * total;
    for (let i = 1; i <= count; i++) if ((left -= 1 / i) <= 0) return i - 1;
    return count - 1;
  }
}
