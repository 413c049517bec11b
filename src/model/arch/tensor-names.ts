/**
 * Which tensors a model is computed from, and which others may stand in its file. It reads no tensor.
 */
import { inFile, TidepoolError } from "../../errors.ts";
import type { ModelFile, TensorInfo } from "../../load/model-file.ts";
import { normsOf, type LayerShape, type ModelShape } from "../../shape/shape.ts";
import { DENSE_NAMES } from "../embedding.ts";
import { FEED_FORWARDS } from "../ffn/kinds.ts";
import { formatOf } from "../matrix/formats.ts";
import { MIXERS } from "../mixer/kinds.ts";
import { TensorNames, type LayerTensors, type TensorSpec } from "./tensor-lookup.ts";

/** The names of a model's tensors, those of its mixers and feed-forwards included. */
export function namesIn(file: ModelFile, { layers, safetensorsNames }: ModelShape): TensorNames {
  const kinds = layers.flatMap(({ mixers, ffn }) => [
    ...mixers.map((mixer) => MIXERS.of(mixer)),
    ...(ffn ? [FEED_FORWARDS.of(ffn)] : []),
  ]);
  const partNames = [...new Set(kinds)].flatMap(({ safetensorsNames }) =>
    Object.entries(safetensorsNames ?? {}),
  );
  return new TensorNames(file, { ...Object.fromEntries(partNames), ...safetensorsNames });
}

function partTensors({ mixers, ffn }: LayerShape, layer: LayerTensors): TensorSpec[] {
  return [
    ...mixers.flatMap((mixer) => MIXERS.of(mixer).tensors(mixer, layer)),
    ...(ffn ? FEED_FORWARDS.of(ffn).tensors(ffn, layer) : []),
  ];
}

/**
 * The tensors that a model is computed from, as they are in the file.
 * @throws TidepoolError `invalid_file` naming one that is missing.
 */
export function usedTensors(file: ModelFile, shape: ModelShape): TensorInfo[] {
  const names = namesIn(file, shape);
  const used = new Set<TensorInfo>();
  const add = (tensor: TensorInfo | undefined) => tensor && used.add(tensor);
  add(names.require(names.model("token_embd"), "token_embd.weight"));
  const addNorm = (norm: TensorInfo | undefined, bias: TensorInfo | undefined, label: string) => {
    add(names.require(norm, label));
    if (shape.norm === "layer") add(bias);
  };
  const modelNorms = [
    ...(shape.embeddingNorm ? ["token_embd_norm"] : []),
    ...(shape.outputNorm === false ? [] : ["output_norm"]),
  ];
  for (const name of modelNorms) addNorm(names.model(name), names.model(name, "bias"), `${name}.weight`);
  if (shape.learnedPositions) add(names.require(names.model("position_embd"), "position_embd.weight"));
  const dense = DENSE_NAMES.slice(0, shape.embedding?.dense.length ?? 0);
  for (const name of dense) add(names.require(names.model(name), `${name}.weight`));
  add(names.model("output"));
  add(names.model("output", "bias"));
  ropeDivisors(names, shape).forEach(add);
  shape.layers.forEach((layer, index) => {
    for (const [, name] of normsOf(layer))
      addNorm(names.norm(index, name), names.layer(index, name, "bias"), `blk.${index}.${name}.weight`);
    for (const [name, suffixes, isRequired] of partTensors(layer, names.at(index))) {
      const found = suffixes.map((suffix) => names.layer(index, name, suffix));
      const label = [`blk.${index}.${name}`, suffixes[0]].filter(Boolean).join(".");
      if (isRequired) names.require(found[0], label);
      found.forEach(add);
    }
  });
  return [...used];
}

/**
 * The divisors of RoPE frequencies that a file carries: LongRoPE's, short and long until one of them is chosen, or others.
 * @throws TidepoolError `invalid_file` if LongRoPE's are missing.
 */
export function ropeDivisors(names: TensorNames, { ropeTables }: ModelShape): TensorInfo[] {
  const scaling = ropeTables[0]?.scaling;
  const freqs = names.model("rope_freqs");
  if (scaling?.type !== "longrope" || scaling.factors) return freqs ? [freqs] : [];
  const wanted = scaling.chosen ? [scaling.chosen] : (["short", "long"] as const);
  return wanted.map((each) =>
    names.require(names.model(`rope_factors_${each}`), `rope_factors_${each}.weight`),
  );
}

/** Checks by the header alone that the tensors a model needs are there, in formats that have kernels, and no others. */
export function checkTensors(file: ModelFile, shape: ModelShape): void {
  try {
    const used = new Set(usedTensors(file, shape));
    for (const tensor of used) formatOf(tensor.type, tensor.name);
    for (const tensor of file.tensors.values()) if (!used.has(tensor)) refuseUnused(tensor, shape);
  } catch (error) {
    throw inFile(file.name, error);
  }
}

/** What may stand in a file without taking part. */
const IGNORED: readonly { name: RegExp; why: string }[] = [
  { name: /^(v|a|mm|mmproj)\./, why: "encoders of pictures and sound in GGUF files of other engines" },
  {
    name: /(^|\.)(vision_tower|vision_model|visual|audio_tower|audio_model|multi_modal_projector|embed_vision)\./,
    why: "the same in safetensors",
  },
  { name: /rotary_emb\.inv_freq$|attn_rot_embd\.weight$|rope_freqs/, why: "follows from the settings" },
  { name: /(^|\.)position_ids$/, why: "counts from 0 on" },
  { name: /^mtp\./, why: "layers that predict further tokens" },
];

/** The layer that a tensor belongs to. */
const LAYER_OF = /^(?:blk|(?:model\.|language_model\.model\.|model\.language_model\.)layers)\.(\d+)\./;

/** A tensor that nothing reads would change what the model says. */
function refuseUnused({ name }: TensorInfo, { layers, unusedLayers, architecture }: ModelShape): void {
  const layer = Number(LAYER_OF.exec(name)?.[1]);
  if (layer >= layers.length && layer < layers.length + unusedLayers) return;
  if (IGNORED.some((each) => each.name.test(name))) return;
  const message = `the tensor ${name} has no part in "${architecture}" here: without it the model would answer wrongly`;
  throw new TidepoolError("unsupported", message, { tensor: name });
}
