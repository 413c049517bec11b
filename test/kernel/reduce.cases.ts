/** lib/reduce and lib/reduce-subgroups: sums and maxima over workgroups of every size, each the same in all invocations. */
import { Random } from "../../src/base.ts";
import { reduceFragment } from "../../src/model/op/kernel-parts.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, expectSame, Rig, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

/** Two calls of each function in a row, so that a missing barrier between calls would show. */
const PROBE = `
@group(0) @binding(0) var<storage, read> given: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> results: array<vec4f>;
@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lid: u32) {
  let value = given[lid];
  results[lid] = vec4f(reduceSum(value.x, lid), reduceSum(value.y, lid), reduceMax(value.x, lid), reduceMax(value.y, lid));
  results[WG + lid] = reduceSum4(value, lid);
  results[2u * WG + lid] = reduceSum4(value.yzwx, lid);
  results[3u * WG + lid] = reduceMax4(value, lid);
  results[4u * WG + lid] = reduceMax4(value.yzwx, lid);
}`;

const GROUPS = 5;

async function check(rig: Rig, size: number, random: Random): Promise<void> {
  const given = Float32Array.from({ length: size * 4 }, () => random.normal() - 3);
  const { lib, subgroups } = reduceFragment(rig.kernels);
  const source = { name: "reduce probe", code: PROBE, libs: [lib], subgroups };
  const pipeline = await rig.kernels.pipeline(source, rig.types, { WG: size });
  const results = rig.unwritten(GROUPS * size * 4, "f32");
  const group = rig.kernels.bind(pipeline, 0, [rig.upload(given), results]);
  rig.run([{ label: "probe", pipeline, group, grid: () => [1, 1, 1] }], { rows: [] });
  const actual = await rig.read(results, "f32", GROUPS * size * 4);
  const { expected, magnitude } = reference(given, size);
  for (let part = 0; part < GROUPS; part++) {
    const first = [...actual.subarray(part * size * 4, part * size * 4 + 4)];
    expectClose(`WG ${size}, part ${part}`, first, expected[part] as number[], (i) => {
      return size * roundOff("f32") * ((magnitude[part] as number[])[i] as number);
    });
    for (let lid = 1; lid < size; lid++) {
      const at = (part * size + lid) * 4;
      expectSame(`WG ${size}, part ${part}, invocation ${lid}`, actual.subarray(at, at + 4), first);
    }
  }
}

function reference(given: Float32Array, size: number) {
  const column = (c: number) => Array.from({ length: size }, (_, i) => given[i * 4 + c] as number);
  const sum = [0, 1, 2, 3].map((c) => column(c).reduce((a, b) => a + b, 0));
  const sizes = [0, 1, 2, 3].map((c) => column(c).reduce((a, b) => a + Math.abs(b), 0));
  const most = [0, 1, 2, 3].map((c) => Math.max(...column(c)));
  const turned = (list: number[]) => [...list.slice(1), ...list.slice(0, 1)];
  const exact = [0, 0, 0, 0];
  return {
    expected: [[...sum.slice(0, 2), ...most.slice(0, 2)], sum, turned(sum), most, turned(most)],
    magnitude: [[...sizes.slice(0, 2), 0, 0], sizes, turned(sizes), exact, exact],
  };
}

export const cases: Case[] = inEverySetting("kernel/reduce", async ({ gpu }, setting) => {
  const rig = new Rig(gpu, setting);
  const random = new Random(testSeed("kernel/reduce"));
  for (const size of [8, 16, 32, 64, 128, 256]) await check(rig, size, random);
  rig.close();
});
