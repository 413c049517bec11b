/** What a thread in Node does while it waits for the GPU: after a moment it rests between two looks of Dawn's. */
import { performance } from "node:perf_hooks";
import { expect, test } from "vitest";
import { endDawn, findDawn } from "../../src/gpu/dawn.ts";
import { openGpu } from "../../src/gpu/device.ts";

/** Adds up in one invocation, which takes a software driver about a second. */
const SLOW = `@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(1) fn main() {
  for (var i = 0u; i < 200000000u; i++) { out[i % 4u] = out[(i + 1u) % 4u] * 0.5 + f32(i); }
}`;

/** After this much of a wait no turn of the event loop is Dawn's any more. */
const EAGER_MS = 110;

test("a long wait leaves the core to the driver", { timeout: 120_000 }, async () => {
  const plain = globalThis.setImmediate;
  const looks: number[] = [];
  globalThis.setImmediate = ((...given: Parameters<typeof plain>) => {
    looks.push(performance.now());
    return plain(...given);
  }) as typeof plain;
  try {
    const { device } = await openGpu(await findDawn());
    const module = device.createShaderModule({ code: SLOW });
    const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
    const buffer = device.createBuffer({ size: 16, usage: 0x80 });
    const entries = [{ binding: 0, resource: { buffer } }];
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(1);
    pass.end();
    device.queue.submit([encoder.finish()]);
    const done = device.queue.onSubmittedWorkDone();
    const asked = performance.now(); // a submission may itself take long beside other work
    await done;
    const waited = performance.now() - asked;
    expect(waited, "the wait is too short to show anything").toBeGreaterThan(2 * EAGER_MS);
    expect(looks.length, "turns in which Dawn has looked at all").toBeGreaterThan(0);
    expect(looks.filter((at) => at - asked > EAGER_MS).length).toBeLessThan(3);
  } finally {
    await endDawn();
    globalThis.setImmediate = plain;
  }
});
