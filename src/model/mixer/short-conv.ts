/**
 * The gated short convolution (LFM2): W_out(C * conv(B * X)), with B, C and X from one matrix. Its data and costs are in
 * shape/mixer/short-conv.ts, its kernel in convolution.ts.
 */
import { shortConvCost, shortConvStateFloats, type ShortConvMixer } from "../../shape/mixer/short-conv.ts";
import { MATRIX } from "../arch/tensor-lookup.ts";
import type { Projection } from "../tensor-loader.ts";
import { checkConv, convOp, loadConv, type ConvWeights } from "./convolution.ts";
import type { MixerKind } from "./kind.ts";

interface ShortConvWeights {
  /** B, C and X. */
  input: Projection;
  conv: ConvWeights;
  output: Projection;
}

export const SHORT_CONV: MixerKind<ShortConvMixer, ShortConvWeights> = {
  kind: "short-conv",
  safetensorsNames: {
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
  },

  keeps: (mixer, hiddenSize) => ({ state: { floats: shortConvStateFloats(mixer, hiddenSize) } }),

  check: ({ kernel }, _, where) => checkConv(kernel, where),

  cost: (mixer, units) => shortConvCost(units, mixer),

  tensors: () => [
    ["shortconv.in_proj", MATRIX, true],
    ["shortconv.conv", MATRIX, true],
    ["shortconv.out_proj", MATRIX, true],
  ],

  async load({ kernel }, layer) {
    const d = layer.hiddenSize;
    return {
      input: await layer.projection(d, [["shortconv.in_proj", 3 * d]]),
      conv: await loadConv(layer, "shortconv.conv", d, kernel),
      output: await layer.projection(d, [["shortconv.out_proj", d]]),
    };
  },

  buffers: (_, { hiddenSize: d, maxRows, elemBytes }) => ({
    mixed: maxRows * 3 * d * 4,
    attended: maxRows * d * elemBytes,
  }),

  async ops({ kernel }, { input, conv, output }, context) {
    const d = context.shape.hiddenSize;
    const [mixed, out] = [context.buffer("mixed"), context.buffer("attended")];
    const { taps, bias } = conv;
    const convolve = await convOp(context.kernels, context.types(context.dtype), {
      ...{ phase: context.phase, gated: true, taps, ...(bias && { bias }) },
      ...{ channels: d, kernel, mixed, stride: 3 * d, offset: 0, ...context.state, out },
    });
    return [
      ...(await context.project(input, context.normed, mixed, 3 * d, "f32")),
      convolve,
      ...(await context.output(output, out)),
    ];
  },
};
