/**
 * The export test: each shipped model that runs, against the logits that PyTorch computed in float64 from the weights of
 * the same file, dequantised (demo/models/golden, written by demo/models/train/export.py).
 */
import type { Case, CaseEnv } from "../support/cases.ts";
import { argmaxMisses, nmse, runTokens, type Feed, type Golden, type Setting } from "./golden.ts";

/** The shipped models that run; a unit test holds that none is missing. */
const MODELS = ["tide-dense", "tide-hybrid", "tide-moe"];

/** Gates of issue 3 (f32) and of issue 2 (f16). */
const F32_GATE = 1e-8;
const F16_GATE = 1e-4;

function shippedCase(name: string, feed: Feed, dtype: "f32" | "f16"): Case {
  return {
    name: `model/shipped/${name} ${feed} ${dtype}`,
    needs: { f16: dtype === "f16" },
    varied: { group: "model/shipped", settings: [name, feed, dtype] },
    async run(env) {
      const { golden, expected, model } = await loadShipped(env, name);
      const setting: Setting = { dtype, kvDtype: dtype, blockTokens: 32, feed };
      const actual = await runTokens(env.gpu, model, golden.tokens, setting);
      const gate = dtype === "f16" ? F16_GATE : F32_GATE;
      const error = nmse(actual, expected);
      if (!(error < gate)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${gate}`);
      const misses = dtype === "f32" ? argmaxMisses(actual, expected, golden.vocabSize) : [];
      if (misses.length > 0) throw new Error(`arg-max differs in rows ${misses.join(", ")}`);
    },
  };
}

async function loadShipped(
  env: CaseEnv,
  name: string,
): Promise<{ golden: Golden; expected: Float32Array; model: Uint8Array }> {
  const model = await env.shipped(`${name}.gguf`);
  const golden = JSON.parse(new TextDecoder().decode(await env.shipped(`golden/${name}.json`))) as Golden;
  const logits = await env.shipped(`golden/${name}.logits.f32`);
  return { golden, expected: new Float32Array(logits.slice().buffer), model };
}

export const cases: Case[] = MODELS.flatMap((name) => [
  shippedCase(name, "once", "f32"),
  shippedCase(name, "chunks of 7", "f32"),
  shippedCase(name, "one by one", "f32"),
  shippedCase(name, "once", "f16"),
]);
