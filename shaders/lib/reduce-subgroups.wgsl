// Sums and maxima over a whole workgroup, with subgroups. The result is in every invocation.
// Same functions as reduce.wgsl; the host picks the file by the adapter's features.
//
// WG: invocations in the workgroup, a power of two from 8 to 256. Kernels that include this file use it as their
//   @workgroup_size and do not declare it again.
// Neither the subgroup size nor the way in which invocations are dealt to subgroups is assumed: each subgroup writes
//   its result at the place of its lowest invocation and the identity at its other places, and then each subgroup
//   reduces all WG places once more, its invocations sharing them out by their rank.
// Calls must be in uniform control flow: each holds two barriers, the second so that another call may follow at once.
// Workgroup memory, only of the functions used: 4 * WG bytes for numbers, 16 * WG for vectors.
// Float order: fixed by WG and the adapter's subgroups, never by data or by other workgroups.

override WG: u32 = 64u;

var<workgroup> reducePlaces: array<f32, WG>;
var<workgroup> reducePlaces4: array<vec4f, WG>;

const REDUCE_LOWEST: f32 = -3.4028234e38;

fn reduceSum(value: f32, lid: u32) -> f32 {
  let sum = subgroupAdd(value);
  reducePlaces[lid] = select(0.0, sum, lid == subgroupMin(lid));
  workgroupBarrier();
  let size = subgroupAdd(1u);
  var share = 0.0;
  for (var i = subgroupExclusiveAdd(1u); i < WG; i += size) { share += reducePlaces[i]; }
  workgroupBarrier();
  return subgroupAdd(share);
}

fn reduceMax(value: f32, lid: u32) -> f32 {
  let largest = subgroupMax(value);
  reducePlaces[lid] = largest;
  workgroupBarrier();
  let size = subgroupAdd(1u);
  var share = REDUCE_LOWEST;
  for (var i = subgroupExclusiveAdd(1u); i < WG; i += size) { share = max(share, reducePlaces[i]); }
  workgroupBarrier();
  return subgroupMax(share);
}

// Component by component.
fn reduceSum4(value: vec4f, lid: u32) -> vec4f {
  let sum = subgroupAdd(value);
  reducePlaces4[lid] = select(vec4f(), sum, lid == subgroupMin(lid));
  workgroupBarrier();
  let size = subgroupAdd(1u);
  var share = vec4f();
  for (var i = subgroupExclusiveAdd(1u); i < WG; i += size) { share += reducePlaces4[i]; }
  workgroupBarrier();
  return subgroupAdd(share);
}

// Component by component.
fn reduceMax4(value: vec4f, lid: u32) -> vec4f {
  let largest = subgroupMax(value);
  reducePlaces4[lid] = largest;
  workgroupBarrier();
  let size = subgroupAdd(1u);
  var share = vec4f(REDUCE_LOWEST);
  for (var i = subgroupExclusiveAdd(1u); i < WG; i += size) { share = max(share, reducePlaces4[i]); }
  workgroupBarrier();
  return subgroupMax(share);
}
