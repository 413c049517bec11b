/**
 * Kernels: WGSL text -> compiled pipelines, cached, with errors that show the compiler's words and the shader.
 * A kernel's text is a prelude (element types, extensions), whole-file fragments of shaders/lib, and one file of shaders/.
 * It knows nothing of models; src/model knows what a kernel's bindings mean.
 */
import { assert } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import type { Gpu } from "./device.ts";

/** An element type that WGSL can compute with. */
export type Elem = "f32" | "f16";

/**
 * What differs between two compilations of one kernel text.
 * - `elem`: type of activations (alias `elem`); sums are always f32.
 * - `kv`: type of stored keys and values (alias `kv_t`).
 * - `out`: type of what a matrix product writes (alias `out_t`).
 */
export interface KernelTypes {
  elem: Elem;
  kv: Elem;
  out: Elem;
}

/** A kernel: its name, its text, and the fragments that stand before it. `subgroups`: a fragment uses them. */
export interface KernelSource {
  name: string;
  code: string;
  libs: readonly string[];
  subgroups?: boolean;
}

export interface Pipeline {
  readonly name: string;
  readonly compute: GPUComputePipeline;
  /** One layout for each group index used, in order. */
  readonly layouts: readonly GPUBindGroupLayout[];
}

type BindingKind = "uniform" | "storage" | "read-only-storage";

/** Compiles kernels for one device and keeps what it compiled; a pipeline is compiled at most once at a time. */
export class Kernels {
  readonly gpu: Gpu;
  private readonly pipelines = new Map<string, Promise<Pipeline>>();
  private readonly layouts = new Map<string, GPUBindGroupLayout>();

  constructor(gpu: Gpu) {
    this.gpu = gpu;
  }

  /**
   * The pipeline of `source` for the given types and override constants.
   * @throws TidepoolError `internal` with the compiler's messages and the numbered text when it does not compile.
   */
  pipeline(
    source: KernelSource,
    types: KernelTypes,
    overrides: Record<string, number> = {},
  ): Promise<Pipeline> {
    const text = this.text(source, types);
    const key = JSON.stringify([source.name, text.length, hashText(text), overrides]);
    const known = this.pipelines.get(key);
    if (known) return known;
    const made = this.compile(source.name, text, overrides);
    this.pipelines.set(key, made);
    made.catch(() => this.pipelines.delete(key));
    return made;
  }

  /** A bind group of whole buffers for group `index` of the pipeline, bindings numbered from 0. */
  bind(
    pipeline: Pipeline,
    index: number,
    resources: readonly (GPUBuffer | GPUBufferBinding)[],
  ): GPUBindGroup {
    const layout = pipeline.layouts[index];
    assert(layout, `${pipeline.name} has no bind group ${index}`);
    return this.gpu.device.createBindGroup({
      label: `${pipeline.name}[${index}]`,
      layout,
      entries: resources.map((resource, binding) => ({
        binding,
        resource: "buffer" in resource ? resource : { buffer: resource },
      })),
    });
  }

  private text(source: KernelSource, types: KernelTypes): string {
    const usesF16 = types.elem === "f16" || types.kv === "f16" || types.out === "f16";
    assert(!usesF16 || this.gpu.features.f16, `${source.name}: f16 asked for on a device without shader-f16`);
    assert(!source.subgroups || this.gpu.features.subgroups, `${source.name}: device without subgroups`);
    const prelude = [
      usesF16 ? "enable f16;" : "",
      source.subgroups ? "enable subgroups;" : "",
      `alias elem = ${types.elem};`,
      `alias kv_t = ${types.kv};`,
      `alias out_t = ${types.out};`,
    ];
    return [...prelude, ...source.libs, source.code].filter((part) => part !== "").join("\n");
  }

  private async compile(name: string, text: string, overrides: Record<string, number>): Promise<Pipeline> {
    const { device } = this.gpu;
    // Nothing is awaited inside the scope: kernels compile side by side, and each must see its own errors.
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label: name, code: text });
    const layouts = parseBindings(text).map((kinds) => this.layout(kinds));
    const layout = device.createPipelineLayout({ bindGroupLayouts: layouts });
    const invalid = device.popErrorScope();
    try {
      const stage = { module, entryPoint: "main", constants: overrides };
      const compute = await device.createComputePipelineAsync({ label: name, layout, compute: stage });
      const error = await invalid;
      if (error) throw new Error(error.message);
      return { name, compute, layouts };
    } catch (error) {
      throw await compileError(name, text, module, error);
    }
  }

  private layout(kinds: readonly BindingKind[]): GPUBindGroupLayout {
    const key = kinds.join(",");
    let layout = this.layouts.get(key);
    if (!layout) {
      layout = this.gpu.device.createBindGroupLayout({
        label: key,
        entries: kinds.map((type, binding) => ({
          binding,
          visibility: GPU_SHADER_STAGE_COMPUTE,
          buffer: { type },
        })),
      });
      this.layouts.set(key, layout);
    }
    return layout;
  }
}

/** GPUShaderStage.COMPUTE: the constant is not a global in every worker. */
const GPU_SHADER_STAGE_COMPUTE = 4;

/**
 * Reads the binding kinds out of a shader's own declarations, so that they stand in one place only.
 * Bindings of a group must be declared in order from 0, groups from 0.
 */
function parseBindings(text: string): BindingKind[][] {
  const groups: BindingKind[][] = [];
  const declaration = /@group\((\d+)\)\s*@binding\((\d+)\)\s*var<\s*(uniform|storage)\s*(?:,\s*(\w+))?\s*>/g;
  for (const [, group, binding, space, access] of text.matchAll(declaration)) {
    const kinds = (groups[Number(group)] ??= []);
    assert(kinds.length === Number(binding), `binding ${group}.${binding} is declared out of order`);
    kinds.push(space === "uniform" ? "uniform" : access === "read_write" ? "storage" : "read-only-storage");
  }
  for (let index = 0; index < groups.length; index++) groups[index] ??= [];
  return groups;
}

async function compileError(
  name: string,
  text: string,
  module: GPUShaderModule,
  cause: unknown,
): Promise<TidepoolError> {
  const info = await module.getCompilationInfo().catch(() => undefined);
  const messages = (info?.messages ?? []).map((m) => `${m.type} at ${m.lineNum}:${m.linePos}: ${m.message}`);
  if (messages.length === 0) messages.push(cause instanceof Error ? cause.message : String(cause));
  const numbered = text.split("\n").map((line, index) => `${String(index + 1).padStart(4)}  ${line}`);
  return new TidepoolError(
    "internal",
    `shader "${name}" does not compile:\n${messages.join("\n")}\n${numbered.join("\n")}`,
    {
      kernel: name,
      messages,
    },
  );
}

/** FNV-1a over UTF-16 units: tells kernel texts apart in the pipeline cache (with the length beside it). */
function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++)
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return hash >>> 0;
}
