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
  /** @throws Error while it compiles, which only `DeferredKernels` lets a caller see */
  readonly compute: GPUComputePipeline;
  /** One layout for each group index used, in order. */
  readonly layouts: readonly GPUBindGroupLayout[];
}

/** A pipeline, bound to layouts from the start, and when it has compiled. */
class Compilation {
  readonly pipeline: Pipeline;
  readonly ready: Promise<void>;

  constructor(name: string, layouts: readonly GPUBindGroupLayout[], compute: Promise<GPUComputePipeline>) {
    let compiled: GPUComputePipeline | undefined;
    this.ready = compute.then((pipeline) => void (compiled = pipeline));
    this.ready.catch(() => {}); // whoever waits for it hears of it, maybe much later
    this.pipeline = {
      name,
      layouts,
      get compute() {
        assert(compiled, `the kernel ${name} is still compiling`);
        return compiled;
      },
    };
  }
}

/** What one device has compiled. */
interface Compiled {
  readonly pipelines: Map<string, Compilation>;
  readonly layouts: Map<string, GPUBindGroupLayout>;
}

const compiledBy = new WeakMap<GPUDevice, Compiled>();

function compiledOn(device: GPUDevice): Compiled {
  let compiled = compiledBy.get(device);
  if (!compiled) compiledBy.set(device, (compiled = { pipelines: new Map(), layouts: new Map() }));
  return compiled;
}

type BindingKind = "uniform" | "storage" | "read-only-storage";

/** Compiles kernels for one device, which keeps what it has compiled for all who ask: a pipeline is compiled at most once. */
export class Kernels {
  readonly gpu: Gpu;
  private readonly compiled: Compiled;

  constructor(gpu: Gpu) {
    this.gpu = gpu;
    this.compiled = compiledOn(gpu.device);
  }

  /** The same kernels, for a caller that makes many ops before it runs one. */
  deferred(): DeferredKernels {
    return new DeferredKernels(this.gpu);
  }

  /**
   * The pipeline of `source` for the given types and override constants.
   * @throws TidepoolError `internal` with the compiler's messages and the numbered text when it does not compile.
   */
  async pipeline(
    source: KernelSource,
    types: KernelTypes,
    overrides: Record<string, number> = {},
  ): Promise<Pipeline> {
    const { pipeline, ready } = this.compilation(source, types, overrides);
    await ready;
    return pipeline;
  }

  /** A bind group of whole buffers for group `index` of the pipeline; undefined where it declares no binding of that number. */
  bind(
    pipeline: Pipeline,
    index: number,
    resources: readonly (GPUBuffer | GPUBufferBinding | undefined)[],
  ): GPUBindGroup {
    const layout = pipeline.layouts[index];
    assert(layout, `${pipeline.name} has no bind group ${index}`);
    return this.gpu.device.createBindGroup({
      label: `${pipeline.name}[${index}]`,
      layout,
      entries: resources.flatMap((resource, binding) =>
        resource ? [{ binding, resource: "buffer" in resource ? resource : { buffer: resource } }] : [],
      ),
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

  protected compilation(
    source: KernelSource,
    types: KernelTypes,
    overrides: Record<string, number>,
  ): Compilation {
    const { pipelines } = this.compiled;
    const text = this.text(source, types);
    const key = JSON.stringify([source.name, text.length, hashText(text), overrides]);
    const known = pipelines.get(key);
    if (known) return known;
    const made = this.compile(source.name, text, overrides);
    pipelines.set(key, made);
    made.ready.catch(() => pipelines.delete(key));
    return made;
  }

  private compile(name: string, text: string, overrides: Record<string, number>): Compilation {
    const { device } = this.gpu;
    // Nothing is awaited inside the scope: kernels compile side by side, and each must see its own errors.
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label: name, code: text });
    const layouts = parseBindings(text).map((kinds) => this.layout(kinds));
    const layout = device.createPipelineLayout({ bindGroupLayouts: layouts });
    const invalid = device.popErrorScope();
    const stage = { module, entryPoint: "main", constants: overrides };
    const compute = async (): Promise<GPUComputePipeline> => {
      try {
        const compiled = await device.createComputePipelineAsync({ label: name, layout, compute: stage });
        const error = await invalid;
        if (error) throw new Error(error.message);
        return compiled;
      } catch (error) {
        throw await compileError(name, text, module, error);
      }
    };
    return new Compilation(name, layouts, compute());
  }

  private layout(kinds: readonly (BindingKind | undefined)[]): GPUBindGroupLayout {
    const key = kinds.join(",");
    let layout = this.compiled.layouts.get(key);
    if (!layout) {
      layout = this.gpu.device.createBindGroupLayout({
        label: key,
        entries: kinds.flatMap((type, binding) =>
          type ? [{ binding, visibility: GPU_SHADER_STAGE_COMPUTE, buffer: { type } }] : [],
        ),
      });
      this.compiled.layouts.set(key, layout);
    }
    return layout;
  }
}

/**
 * Kernels whose pipelines may still be compiling when they are handed out: all that a caller asks for compile side by side,
 * where one after the other the compiler would have one core to work on. Nothing may run before `ready` resolves.
 */
class DeferredKernels extends Kernels {
  private readonly asked = new Set<Compilation>();

  override pipeline(
    source: KernelSource,
    types: KernelTypes,
    overrides: Record<string, number> = {},
  ): Promise<Pipeline> {
    const compilation = this.compilation(source, types, overrides);
    this.asked.add(compilation);
    return Promise.resolve(compilation.pipeline);
  }

  /**
   * Waits for all that was asked for.
   * @throws the first error of the compiler, or of `onReady`
   */
  async ready(onReady: (done: number, total: number) => void = () => {}): Promise<void> {
    let done = 0;
    const all = [...this.asked].map(async ({ ready }) => {
      await ready;
      onReady(++done, this.asked.size);
    });
    await Promise.all(all);
  }
}

/** GPUShaderStage.COMPUTE: the constant is not a global in every worker. */
const GPU_SHADER_STAGE_COMPUTE = 4;

/**
 * Reads the binding kinds out of a shader's own declarations, so that they stand in one place only.
 * A fragment may declare bindings behind those of any kernel that it stands in: numbers may be left out.
 */
function parseBindings(text: string): (BindingKind | undefined)[][] {
  const groups: (BindingKind | undefined)[][] = [];
  const declaration = /@group\((\d+)\)\s*@binding\((\d+)\)\s*var<\s*(uniform|storage)\s*(?:,\s*(\w+))?\s*>/g;
  for (const [, group, binding, space, access] of text.matchAll(declaration)) {
    const kinds = (groups[Number(group)] ??= []);
    assert(!kinds[Number(binding)], `binding ${group}.${binding} is declared twice`);
    kinds[Number(binding)] =
      space === "uniform" ? "uniform" : access === "read_write" ? "storage" : "read-only-storage";
  }
  return Array.from(groups, (kinds = []) => Array.from(kinds));
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
