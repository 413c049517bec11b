/** Latent attention's own kernels: products for each head, in a stored format too, and what is kept and asked with. */
import { Random } from "../../src/base.ts";
import { uploadWeight, destroyWeight } from "../../src/model/matrix/upload.ts";
import { headProductOps, latentRopeOp } from "../../src/model/mixer/latent.ts";
import { ropeFrequencies, RopeTable } from "../../src/model/op/rope.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { dequantise, quantReference, randomBlocks } from "../support/quants.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

const UNIT = roundOff("f32");
const EPS = 1e-6;

const steps = (rows: number) => ({ rows: Array.from({ length: rows }, (_, position) => ({ position })) });

async function checkProduct(rig: Rig, device: GPUDevice, type: string, rows: number, random: Random) {
  const { elem } = rig.types;
  const [heads, outDim, columns] = [3, 20, type === "F32" ? 44 : 64];
  const [xPerHead, yPerHead] = [columns + 8, outDim + 4];
  const reference = quantReference(type);
  const bytes = randomBlocks(reference, (columns / reference.blockLen) * heads * outDim, random);
  const source = (async function* () {
    yield await Promise.resolve(bytes);
  })();
  const info = { name: "heads", type, columns, rows: heads * outDim };
  const weight = await uploadWeight(device, info, source);
  const w = dequantise(reference, bytes);
  const x = rounded(lumpy(random, rows * heads * xPerHead, xPerHead), elem);
  const y = rig.unwritten(rows * heads * yPerHead, elem);
  const input = { weight, outDim, x: rig.upload(x, elem), xStride: heads * xPerHead, xPerHead };
  rig.run(
    await headProductOps(rig.kernels, rig.types, { ...input, y, yStride: heads * yPerHead, yPerHead }),
    steps(rows),
  );
  const actual = await rig.read(y, elem, rows * heads * yPerHead);
  const written = Array.from({ length: rows * heads * outDim }, (_, i) => {
    const [row, head, n] = [Math.floor(i / outDim / heads), Math.floor(i / outDim) % heads, i % outDim];
    const terms = Array.from({ length: columns }, (_, c) => {
      const at = (head * outDim + n) * columns + c;
      return (w[at] as number) * (x[(row * heads + head) * xPerHead + c] as number);
    });
    const size = terms.reduce((sum, term) => sum + Math.abs(term), 0);
    const value = terms.reduce((sum, term) => sum + term, 0);
    return { at: (row * heads + head) * yPerHead + n, value, bound: (columns + 20) * UNIT * size };
  });
  const got = written.map(({ at }) => actual[at] as number);
  expectClose(
    `${type} of ${rows} rows`,
    got,
    written.map(({ value }) => value),
    (i) => (written[i]?.bound ?? 0) + roundOff(elem) * Math.abs(written[i]?.value ?? 0) + 2 ** -25,
  );
  destroyWeight(weight);
}

async function checkRope(rig: Rig, interleaved: boolean, random: Random): Promise<void> {
  const { elem } = rig.types;
  const [rows, mixer] = [5, { heads: 3, plainDim: 12, rank: 20, ropeDim: 8 }];
  const { heads, plainDim, rank, ropeDim } = mixer;
  const [inHead, width] = [plainDim + ropeDim, rank + ropeDim];
  const raw = rounded(lumpy(random, rows * heads * inHead, inHead), elem);
  const kept = rounded(lumpy(random, rows * width, width), elem);
  const weight = rounded(lumpy(random, rank, rank), "f32");
  const q = rig.upload(new Float64Array(rows * heads * width), elem);
  const keptBuffer = rig.upload(kept, elem);
  const buffers = { raw: rig.upload(raw, elem), weight: rig.upload(weight), q, kept: keptBuffer };
  const op = await latentRopeOp(rig.kernels, rig.types, { mixer, ...buffers, eps: EPS, interleaved });
  const table = new RopeTable([ropeFrequencies({ theta: 100, rot: ropeDim, scaling: { type: "none" } })]);
  const ropeTable = new Float32Array(table.size(rows));
  table.fill([0, 1, 2, 3, 4], ropeTable);
  rig.run([op], { ...steps(rows), ropeTable });
  const turned = (values: Float64Array, position: number) => {
    const out = values.slice();
    for (let pair = 0; pair < ropeDim / 2; pair++) {
      const [a, b] = interleaved ? [2 * pair, 2 * pair + 1] : [pair, pair + ropeDim / 2];
      const angle = position * 100 ** ((-2 * pair) / ropeDim);
      const [u, v] = [values[a] as number, values[b] as number];
      out[a] = u * Math.cos(angle) - v * Math.sin(angle);
      out[b] = u * Math.sin(angle) + v * Math.cos(angle);
    }
    return out;
  };
  const wantQ = new Float64Array(rows * heads * width);
  const wantKept = kept.slice();
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads; head++) {
      const part = raw.slice((row * heads + head) * inHead + plainDim, (row * heads + head + 1) * inHead);
      wantQ.set(turned(part, row), (row * heads + head) * width + rank);
    }
    const latent = kept.slice(row * width, row * width + rank);
    const rms = Math.sqrt(latent.reduce((sum, value) => sum + value * value, 0) / rank + EPS);
    latent.forEach((value, c) => (wantKept[row * width + c] = (value / rms) * (weight[c] as number)));
    wantKept.set(turned(kept.slice(row * width + rank, (row + 1) * width), row), row * width + rank);
  }
  const bound = (values: Float64Array, size: number) => (i: number) =>
    ((rank + 16) * UNIT + roundOff(elem)) * (Math.abs(values[i] as number) + size) + 2 ** -25;
  const largest = Math.max(...raw.map(Math.abs), ...kept.map(Math.abs));
  expectClose("q", await rig.read(q, elem, wantQ.length), wantQ, (i) =>
    wantQ[i] === 0 ? 0 : bound(wantQ, largest / 4)(i),
  );
  expectClose(
    "kept",
    await rig.read(keptBuffer, elem, wantKept.length),
    wantKept,
    bound(wantKept, largest / 4),
  );
}

export const cases: Case[] = [
  ...inEverySetting("kernel/latent/head products", async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    const random = new Random(testSeed("kernel/latent/head products"));
    for (const type of ["F32", "Q8_0"])
      for (const rows of [1, 6]) await checkProduct(rig, gpu.device, type, rows, random);
    rig.close();
  }),
  ...inEverySetting("kernel/latent/kept and asked", async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    const random = new Random(testSeed("kernel/latent/kept and asked"));
    for (const interleaved of [true, false]) await checkRope(rig, interleaved, random);
    rig.close();
  }),
];
