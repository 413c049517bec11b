/**
 * What the machines of a simulated cluster can do, and how long a model's work takes on them: fixed costs, in the form of
 * those that the engine learns (schedule/cost). The numbers are those of Mooncake's machines, with their sources; what no
 * source tells is said to be assumed. It measures nothing.
 */
import { TidepoolError } from "../../errors.ts";
import type { StepCosts } from "../../schedule/cost/model.ts";
import { flopsBetween, type Cost } from "../../shape/cost.ts";
import type { Trace } from "../trace.ts";

/** A machine of the cluster. All of its GPUs together serve one instance. */
export interface Machine {
  flopsPerSecond: number;
  /** The share of `flopsPerSecond` that prefill reaches. */
  prefillEfficiency: number;
  gpuBytesPerSecond: number;
  /** The share of `gpuBytesPerSecond` that decode reaches. */
  decodeEfficiency: number;
  /** What a decode step takes beside reading weights and KV. */
  stepMs: number;
  /** What a prompt takes beside its FLOPs. */
  promptMs: number;
  /** For weights and the KV of running requests. */
  gpuBytes: number;
  /** For prefixes. */
  hostBytes: number;
  hostToGpuBytesPerSecond: number;
  networkBytesPerSecond: number;
}

/** Mooncake's node: 8 A800 of 80 GB. */
export const a800Node: Machine = {
  // Mooncake (FAST'25), section 2.2: 8 x 312 TFLOPS, 128 GB/s from the host to the GPUs, 800 Gbps of network.
  ...{ flopsPerSecond: 8 * 312e12, hostToGpuBytesPerSecond: 128e9, networkBytesPerSecond: 100e9 },
  // The same: 1 TB of DRAM holds about 3 million tokens of LLaMA3-70B.
  hostBytes: 1e12,
  // NVIDIA's data sheet of the A800 80GB SXM: 80 GB, 2,039 GB/s.
  ...{ gpuBytes: 8 * 80e9, gpuBytesPerSecond: 8 * 2.039e12 },
  // Fitted to one published figure: 5.27 s to the first token, by load balancing, of the conversation trace (FAST'25).
  prefillEfficiency: 0.47,
  // Assumed: 60% of the memory's bandwidth, 160 all-reduces of 30 microseconds in a step, 10 ms before a prompt. A step of one
  // request then takes 19 ms; Mooncake's limit of 100 ms between tokens is said to be 5 times what an unloaded machine takes.
  ...{ decodeEfficiency: 0.6, stepMs: 5, promptMs: 10 },
};

/** The share of a machine's memory that weights and KV may take. Assumed, as in vLLM; the rest is for activations. */
const MEMORY_SHARE = 0.9;

/** How long a model's work takes on a machine. */
export class ClusterCost implements StepCosts {
  /** Tokens of running requests that a decode instance has room for. */
  readonly decodeCapacityTokens: number;
  private readonly model: Cost;
  private readonly machine: Machine;

  constructor(model: Cost, machine: Machine) {
    if (model.bytesPerSnapshot > 0) {
      const message =
        "model has recurrent layers; a cluster is simulated for models of attention layers alone";
      throw new TidepoolError("invalid_argument", message);
    }
    this.model = model;
    this.machine = machine;
    const kvBytes = MEMORY_SHARE * machine.gpuBytes - weightBytes(model);
    this.decodeCapacityTokens = Math.floor(kvBytes / model.bytesPerToken);
  }

  /** A prompt's tokens behind `from` cached ones, whose KV is read from the host's memory meanwhile, layer by layer. */
  prefillMs(tokens: number, from: number): number {
    const { flopsPerSecond, prefillEfficiency, promptMs, hostToGpuBytesPerSecond } = this.machine;
    const flops = flopsBetween(this.model, from, from + tokens);
    const computeMs = (1000 * flops) / (flopsPerSecond * prefillEfficiency);
    return promptMs + Math.max(computeMs, this.movedMs(from, hostToGpuBytesPerSecond));
  }

  decodeMs(rows: number, contextTokens: number): number {
    const { gpuBytesPerSecond, decodeEfficiency, stepMs, flopsPerSecond, prefillEfficiency } = this.machine;
    const bytes = weightBytes(this.model) + contextTokens * this.model.bytesPerToken;
    const computeMs = (1000 * rows * this.model.flopsLinear) / (flopsPerSecond * prefillEfficiency);
    return stepMs + (1000 * bytes) / (gpuBytesPerSecond * decodeEfficiency) + computeMs;
  }

  /** The KV of so many tokens, from one machine to another. */
  transferMs(tokens: number): number {
    return this.movedMs(tokens, this.machine.networkBytesPerSecond);
  }

  /** Throws for a request that no decode instance could ever take. */
  check({ name, requests }: Trace): void {
    const room = this.decodeCapacityTokens;
    const line = requests.findIndex(({ inputTokens, outputTokens }) => inputTokens + outputTokens > room);
    if (line < 0) return;
    const { inputTokens, outputTokens } = requests[line]!;
    const message = `request ${line + 1} of ${name} has ${inputTokens + outputTokens} tokens; beside the weights a decode instance has room for ${Math.max(0, room)}`;
    throw new TidepoolError("invalid_argument", message);
  }

  private movedMs(tokens: number, bytesPerSecond: number): number {
    return (1000 * tokens * this.model.bytesPerToken) / bytesPerSecond;
  }
}

/** Two bytes a weight; each weight is one multiplication and one addition for a token. */
function weightBytes({ flopsLinear }: Cost): number {
  return flopsLinear;
}
