/**
 * The prediction that needs no training: the router of a later layer applied to what an earlier router saw, normed with the later
 * layer's weights. On the CPU, for models with RMS norms before their experts whose routers are plain matrices (GGUF).
 */
import { bestOf } from "../../src/sim/experts/generate.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { floatsOf } from "../../src/model/floats.ts";

interface Gate {
  norm: Float32Array;
  /** [experts, hiddenSize] */
  router: Float32Array;
}

export class SkipGate {
  private readonly gates: readonly Gate[];
  private readonly experts: number;

  private constructor(gates: readonly Gate[], experts: number) {
    this.gates = gates;
    this.experts = experts;
  }

  /** @param layers the model's layers that have experts */
  static async read(file: ModelFile, layers: readonly number[], experts: number): Promise<SkipGate> {
    const vector = async (name: string): Promise<Float32Array> => {
      const tensor = file.tensors.get(name);
      if (!tensor) throw new Error(`${file.name} has no ${name}: its experts cannot be guessed`);
      const bytes = new Uint8Array(tensor.sizeBytes);
      let at = 0;
      for await (const piece of file.readTensor(tensor)) {
        bytes.set(piece, at);
        at += piece.length;
      }
      return floatsOf(tensor, bytes);
    };
    const gates: Gate[] = [];
    for (const layer of layers)
      gates.push({
        norm: await vector(`blk.${layer}.ffn_norm.weight`),
        router: await vector(`blk.${layer}.ffn_gate_inp.weight`),
      });
    return new SkipGate(gates, experts);
  }

  /** The best experts of the layer `behind + distance`, from what the router of `behind` saw. */
  guess(behind: number, distance: number, input: Float32Array, count: number): number[] {
    const [from, to] = [this.gates[behind] as Gate, this.gates[behind + distance] as Gate];
    const normed = input.map((value, i) => (value / (from.norm[i] as number)) * (to.norm[i] as number));
    const logits = new Float32Array(this.experts);
    for (let expert = 0; expert < this.experts; expert++) {
      let sum = 0;
      for (let i = 0; i < normed.length; i++)
        sum += (to.router[expert * normed.length + i] as number) * (normed[i] as number);
      logits[expert] = sum;
    }
    return bestOf(logits, count);
  }
}
