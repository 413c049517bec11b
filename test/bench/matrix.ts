/**
 * How fast the matrix kernels are on this machine's adapter: one line for each kernel, format and shape, with GFLOP/s and
 * GB/s of weights by the clock and, for software adapters on a busy machine, by processor time. For choosing tile shapes;
 * it checks no results (test/kernel/matrix.cases.ts does) and measures no whole model (bench.ts does).
 * Arguments: [--formats F16,Q4_0] [--elem f32|f16] [--rows 1,4,64] [--shape COLUMNSxROWS] [--as-real] [--no-subgroups].
 */
import { Random } from "../../src/base.ts";
import { adapterLine, findProvider, openGpu } from "../../src/gpu/device.ts";
import type { Elem } from "../../src/gpu/kernel.ts";
import type { Op } from "../../src/gpu/op.ts";
import { matmulOp, matvecOp } from "../../src/model/matrix/products.ts";
import { destroyWeight, uploadWeight, type PackedWeight } from "../../src/model/matrix/upload.ts";
import { runOps, Scratch, kernelsOf, type Pretence } from "../support/matrix-run.ts";
import { quantReference, randomBlocks } from "../support/quants.ts";

/** Each timing repeats an op for about as long; the best of the repeats is printed. */
const BATCH_MS = 200;
const REPEATS = 3;
/** Rows from which the prefill kernel is measured as well. */
const MATMUL_FROM_ROWS = 8;

interface Settings {
  formats: string[];
  elem: Elem;
  rowCounts: number[];
  columns: number;
  rows: number;
  pretence: Pretence;
}

interface Timing {
  wallMs: number;
  processorMs: number;
}

function readSettings(args: string[]): Settings {
  const option = (name: string, otherwise: string) =>
    args.includes(`--${name}`) ? (args[args.indexOf(`--${name}`) + 1] ?? otherwise) : otherwise;
  const [columns, rows] = option("shape", "512x1408").split("x").map(Number);
  return {
    formats: option("formats", "F16,Q4_0,Q8_0,Q4_K,Q6_K").split(","),
    elem: option("elem", "f32") === "f16" ? "f16" : "f32",
    rowCounts: option("rows", "1,4,64").split(",").map(Number),
    columns: columns ?? 512,
    rows: rows ?? 1408,
    pretence: {
      ...(args.includes("--as-real") ? { software: false } : {}),
      ...(args.includes("--no-subgroups") ? { subgroups: false } : {}),
    },
  };
}

async function randomWeight(device: GPUDevice, type: string, settings: Settings): Promise<PackedWeight> {
  const reference = quantReference(type);
  const { columns, rows } = settings;
  const bytes = randomBlocks(reference, (columns / reference.blockLen) * rows, new Random(1));
  const source = (async function* () {
    yield await Promise.resolve(bytes);
  })();
  return uploadWeight(device, { name: type, type, columns, rows }, source);
}

async function timeOp(scratch: Scratch, op: Op, rows: number): Promise<Timing> {
  const data = { rows, logitRows: rows };
  const run = async (count: number): Promise<Timing> => {
    const began = performance.now();
    const before = process.cpuUsage();
    runOps(scratch, new Array<Op>(count).fill(op), data);
    await scratch.gpu.device.queue.onSubmittedWorkDone();
    const used = process.cpuUsage(before);
    const processorMs = (used.user + used.system) / 1000 / count;
    return { wallMs: (performance.now() - began) / count, processorMs };
  };
  await run(1); // compiles
  const once = await run(1);
  const count = Math.max(1, Math.min(200, Math.round(BATCH_MS / once.wallMs)));
  const timings: Timing[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) timings.push(await run(count));
  return {
    wallMs: Math.min(...timings.map((each) => each.wallMs)),
    processorMs: Math.min(...timings.map((each) => each.processorMs)),
  };
}

async function measure(
  scratch: Scratch,
  weight: PackedWeight,
  rows: number,
  settings: Settings,
): Promise<void> {
  const { elem, pretence } = settings;
  const kernels = kernelsOf(scratch.gpu, pretence);
  const x = scratch.floats(new Float32Array(rows * weight.columns).fill(0.5), elem);
  const y = scratch.empty(rows * weight.rows * (elem === "f16" ? 2 : 4));
  const [piece] = weight.pieces;
  if (!piece) throw new Error(`${weight.name} has no piece`);
  const makers = rows >= MATMUL_FROM_ROWS ? [matvecOp, matmulOp] : [matvecOp];
  for (const make of makers) {
    const op = await make(kernels, { elem, kv: elem, out: elem }, { weight, piece, x, y });
    const { wallMs, processorMs } = await timeOp(scratch, op, rows);
    const work = 2 * rows * weight.rows * weight.columns * 1e-6;
    const columns = [
      op.label.padEnd(18),
      `${weight.columns}x${weight.rows} rows ${rows}`.padEnd(20),
      `${wallMs.toFixed(3)} ms`.padStart(12),
      `${(work / wallMs).toFixed(2)} GFLOP/s`.padStart(16),
      `${((weight.bytes * 1e-6) / wallMs).toFixed(2)} GB/s`.padStart(12),
      `${(work / processorMs).toFixed(2)} GFLOP per processor second`.padStart(36),
    ];
    console.log(columns.join(" "));
  }
}

async function main(): Promise<void> {
  const settings = readSettings(process.argv.slice(2));
  const gpu = await openGpu(await findProvider());
  console.log(`${adapterLine(gpu.adapter)}, ${settings.elem}, ${JSON.stringify(settings.pretence)}`);
  for (const type of settings.formats) {
    const weight = await randomWeight(gpu.device, type, settings);
    for (const rows of settings.rowCounts) {
      const scratch = new Scratch(gpu);
      await measure(scratch, weight, rows, settings);
      scratch.destroy();
    }
    destroyWeight(weight);
  }
  gpu.device.destroy();
}

await main();
setTimeout(() => process.exit(), 50);
