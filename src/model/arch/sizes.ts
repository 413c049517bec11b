/**
 * What the kernels ask of a model's sizes, checked before anything is made of them: a file that goes outside is refused with
 * the size named, and what the kernels assert stays our own mistakes. Whether tensors have these sizes is for weights.ts.
 */
import { TidepoolError } from "../../errors.ts";
import { MAX_KEY_DIM } from "../mixer/gated-delta.ts";
import type { AttentionMixer, DeltaMixer, MambaMixer, Mixer, ModelShape } from "../../shape/shape.ts";

/** Rows are read four numbers at a time. */
const LANES = 4;
const MAX_HEAD_DIM = 256;

/** @throws TidepoolError `unsupported` naming layer and size. */
export function checkSizes(shape: ModelShape): void {
  need(shape.hiddenSize % LANES === 0, `the hidden size ${shape.hiddenSize} is not a multiple of ${LANES}`);
  for (const { rot } of shape.ropeTables) {
    need(rot >= 0 && rot % 2 === 0, `${rot} rotated entries a head (RoPE) are not a whole number of pairs`);
  }
  shape.layers.forEach(({ mixers, ffn }, index) => {
    for (const mixer of mixers) checkMixer(shape, mixer, `layer ${index}`);
    if (ffn)
      need(
        ffn.width % LANES === 0,
        `layer ${index}: the feed-forward width ${ffn.width} is not a multiple of ${LANES}`,
      );
  });
}

function checkMixer(shape: ModelShape, mixer: Mixer, where: string): void {
  if (mixer.kind === "attention") return checkAttention(shape, mixer, where);
  need(mixer.kernel >= 2, `${where}: a convolution over ${mixer.kernel} tokens is none`);
  if (mixer.kind === "mamba2") checkMamba(mixer, where);
  else if (mixer.kind === "gated-delta") checkDelta(mixer, where);
}

function checkAttention(shape: ModelShape, mixer: AttentionMixer, where: string): void {
  const { heads, kvHeads, headDim, ropeTable } = mixer;
  need(heads > 0 && kvHeads > 0, `${where}: attention with ${heads} heads over ${kvHeads} KV heads`);
  need(heads % kvHeads === 0, `${where}: ${heads} heads cannot share ${kvHeads} KV heads evenly`);
  need(
    headDim >= LANES && headDim <= MAX_HEAD_DIM && headDim % LANES === 0,
    `${where}: the head size ${headDim} is not a multiple of ${LANES} up to ${MAX_HEAD_DIM}`,
  );
  const rot = ropeTable === undefined ? 0 : (shape.ropeTables[ropeTable]?.rot ?? 0);
  need(rot <= headDim, `${where}: ${rot} rotated entries in a head of ${headDim}`);
  need(ropeTable === undefined || rot > 0, `${where}: a rotation (RoPE) of no entries`);
}

function checkMamba({ heads, headDim, groups, stateSize }: MambaMixer, where: string): void {
  for (const [name, value] of Object.entries({ heads, headDim, groups, stateSize }))
    need(Number.isInteger(value) && value > 0, `${where}: Mamba-2 with ${name} ${value}`);
  need(heads % groups === 0, `${where}: ${heads} heads do not fall into ${groups} groups`);
}

function checkDelta({ keyHeads, valueHeads, keyDim, valueDim }: DeltaMixer, where: string): void {
  for (const [name, value] of Object.entries({ keyHeads, valueHeads, keyDim, valueDim }))
    need(Number.isInteger(value) && value > 0, `${where}: a gated delta rule with ${name} ${value}`);
  need(valueHeads % keyHeads === 0, `${where}: ${valueHeads} value heads for ${keyHeads} key heads`);
  need(keyDim <= MAX_KEY_DIM, `${where}: keys of ${keyDim} entries, at most ${MAX_KEY_DIM}`);
}

function need(condition: boolean, what: string): void {
  if (!condition) throw new TidepoolError("unsupported", what);
}
