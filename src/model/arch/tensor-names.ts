/**
 * Which tensors a model is computed from, and which others may stand in its file. It reads no tensor.
 */
import { assert } from "../../base.ts";
import { inFile, TidepoolError } from "../../errors.ts";
import type { ModelFile, TensorInfo } from "../../load/model-file.ts";
import { normsOf, type LayerShape, type Mixer, type ModelShape } from "../../shape/shape.ts";
import { DENSE_NAMES } from "../embedding.ts";
import { FEED_FORWARDS } from "../ffn/kinds.ts";
import { formatOf } from "../matrix/formats.ts";
import { MIXERS } from "../mixer/kinds.ts";
import { ALTUP_LAYER, altUpTensors } from "../residual/altup.ts";
import { PER_LAYER_GATE, PER_LAYER_TENSORS } from "../residual/per-layer.ts";
import { requireTensor, TensorNames, VECTOR, type LayerTensors, type TensorSpec } from "./tensor-lookup.ts";

/** The names of a model's tensors, those of its mixers and feed-forwards included. */
export function namesIn(file: ModelFile, { layers, safetensorsNames }: ModelShape): TensorNames {
  const kinds = layers.flatMap(({ mixers, ffn }) => [
    ...mixers.map((mixer) => MIXERS.of(mixer)),
    ...(ffn ? [FEED_FORWARDS.of(ffn)] : []),
  ]);
  const names: Record<string, string> = {};
  for (const part of new Set(kinds))
    for (const [name, other] of Object.entries(part.safetensorsNames ?? {})) {
      assert(
        (names[name] ?? other) === other,
        `two parts of a model name ${name} differently in safetensors`,
      );
      names[name] = other;
    }
  return new TensorNames(file, { ...names, ...safetensorsNames });
}

/** The number that a layer's output is multiplied by. */
export const OUTPUT_SCALE = "layer_output_scale";

function partTensors(shape: LayerShape, layer: LayerTensors): TensorSpec[] {
  const { mixers, ffn, perLayerGate, outputScale } = shape;
  return [
    ...mixers.flatMap((mixer) => MIXERS.of(mixer).tensors(mixer, layer)),
    ...(ffn ? FEED_FORWARDS.of(ffn).tensors(ffn, layer) : []),
    ...(perLayerGate ? PER_LAYER_GATE : []),
    ...(outputScale ? [[OUTPUT_SCALE, VECTOR, true] as const] : []),
  ];
}

/** A tensor that a model asks for, with those that may stand beside it. */
interface Need {
  /** Its name in GGUF. */
  label: string;
  found: readonly (TensorInfo | undefined)[];
  isRequired: boolean;
}

function needsOf(file: ModelFile, shape: ModelShape): Need[] {
  const names = namesIn(file, shape);
  const need = (label: string, found: Need["found"], isRequired = true): Need => ({
    label,
    found,
    isRequired,
  });
  const norm = (label: string, found: TensorInfo | undefined, bias: TensorInfo | undefined) =>
    need(`${label}.weight`, shape.norm === "layer" ? [found, bias] : [found]);
  const modelNorms = [
    ...(shape.embeddingNorm ? ["token_embd_norm"] : []),
    ...(shape.outputNorm === false ? [] : ["output_norm"]),
  ];
  const dense = DENSE_NAMES.slice(0, shape.embedding?.dense.length ?? 0);
  return [
    need("token_embd.weight", [names.model("token_embd")]),
    ...modelNorms.map((name) => norm(name, names.model(name), names.model(name, "bias"))),
    ...(shape.learnedPositions ? [need("position_embd.weight", [names.model("position_embd")])] : []),
    need("token_types.weight", [names.model("token_types")], false),
    ...dense.map((name) => need(`${name}.weight`, [names.model(name)])),
    need("output.weight", [names.model("output"), names.model("output", "bias")], false),
    need("rope_freqs.weight", ropeDivisors(names, shape), false),
    ...[...(shape.perLayerWidth ? PER_LAYER_TENSORS : []), ...(shape.altUp ? altUpTensors(names) : [])].map(
      (name) => need(`${name}.weight`, [names.model(name)]),
    ),
    ...shape.layers.flatMap((layer, index) => [
      ...normsOf(layer).map(([, name]) =>
        norm(`blk.${index}.${name}`, names.norm(index, name), names.layer(index, name, "bias")),
      ),
      ...[...partTensors(layer, names.at(index)), ...(shape.altUp ? ALTUP_LAYER : [])].map(
        ([name, suffixes, isRequired]) => {
          const label = [`blk.${index}.${name}`, suffixes[0]].filter(Boolean).join(".");
          return need(
            label,
            suffixes.map((suffix) => names.layer(index, name, suffix)),
            isRequired,
          );
        },
      ),
    ]),
  ];
}

/**
 * The tensors that a model is computed from, as they are in the file.
 * @throws TidepoolError `invalid_file` naming one that is missing.
 */
export function usedTensors(file: ModelFile, shape: ModelShape): TensorInfo[] {
  const needs = needsOf(file, shape);
  for (const { label, found, isRequired } of needs) if (isRequired) requireTensor(found[0], label);
  return foundIn(needs);
}

function foundIn(needs: readonly Need[]): TensorInfo[] {
  const found = needs.flatMap((need) => need.found).filter((tensor) => tensor !== undefined);
  return [...new Set(found)];
}

/** How the tensors of a file differ from those that a shape asks for: names in GGUF of those it lacks, and its own of the others. */
export function tensorDifferences(
  file: ModelFile,
  shape: ModelShape,
): { used: number; missing: string[]; unused: string[] } {
  const needs = needsOf(file, shape);
  const used = new Set(foundIn(needs));
  const missing = needs.filter(({ found, isRequired }) => isRequired && !found[0]).map(({ label }) => label);
  const others = [...file.tensors.values()].filter(
    (tensor) => !used.has(tensor) && !isIgnored(tensor, shape),
  );
  return { used: used.size, missing, unused: others.map(({ name }) => name) };
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
    name: /(^|\.)(vision_tower|vision_model|visual|audio_tower|audio_model|multi_modal_projector|embed_(vision|audio))\./,
    why: "the same in safetensors",
  },
  { name: /rotary_emb\.inv_freq$|attn_rot_embd\.weight$|rope_freqs/, why: "follows from the settings" },
  { name: /\.\d+\.(attn|attention)\.(masked_)?bias$/, why: "the causal mask of GPT-2 and GPT-NeoX" },
  { name: /(^|\.)position_ids$/, why: "counts from 0 on" },
  { name: /(^|\.)(pooler\.dense|cls\.(predictions|seq_relationship))\./, why: "heads of BERT's training" },
  { name: /^mtp\./, why: "layers that predict further tokens" },
];

/** The layer that a tensor belongs to. */
const LAYER_OF =
  /^(?:blk|(?:model\.|language_model\.model\.|model\.language_model\.|backbone\.)layers)\.(\d+)\./;

function isIgnored({ name }: TensorInfo, { layers, unusedLayers }: ModelShape): boolean {
  const layer = Number(LAYER_OF.exec(name)?.[1]);
  if (layer >= layers.length && layer < layers.length + unusedLayers) return true;
  if (layers[layer]?.mixers.some(sharesKv) && SHARED_KV.test(name)) return true;
  return IGNORED.some((each) => each.name.test(name));
}

/** What a layer that reads another's keys and values has no use for, though its file may have it. */
const SHARED_KV = /\.(attn_(k|v|k_norm)|self_attn\.(k_proj|v_proj|k_norm|v_norm))\.weight$/;

function sharesKv(mixer: Mixer): boolean {
  return mixer.kind === "attention" && mixer.sharesKvOf !== undefined;
}

/** A tensor that nothing reads would change what the model says. */
function refuseUnused(tensor: TensorInfo, shape: ModelShape): void {
  if (isIgnored(tensor, shape)) return;
  const { name } = tensor;
  const { architecture } = shape;
  const message = `the tensor ${name} has no part in "${architecture}" here: without it the model would answer wrongly`;
  throw new TidepoolError("unsupported", message, { tensor: name });
}
