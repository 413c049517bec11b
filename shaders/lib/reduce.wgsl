// Sums and maxima over a whole workgroup, without subgroups. The result is in every invocation.
// Same functions as reduce-subgroups.wgsl; the host picks the file by the adapter's features.
//
// WG: invocations in the workgroup, a power of two from 8 to 256. Kernels that include this file use it as their
//   @workgroup_size and do not declare it again.
// Calls must be in uniform control flow: each holds two barriers. A second call may follow at once: the values of the
//   first are read before its second barrier, and its columns before the next call's first.
// Workgroup memory, only of the functions used: 4 * (WG + 16) bytes for numbers, 16 * (WG + 16) for vectors.
// Float order: COLUMNS partial sums of the invocations lid, lid + COLUMNS, ... in rising order, then those in rising
//   order. It depends on WG alone.

override WG: u32 = 64u;

const REDUCE_COLUMNS: u32 = 16u;

var<workgroup> reduceValues: array<f32, WG>;
var<workgroup> reduceColumns: array<f32, REDUCE_COLUMNS>;
var<workgroup> reduceValues4: array<vec4f, WG>;
var<workgroup> reduceColumns4: array<vec4f, REDUCE_COLUMNS>;

// min(WG, REDUCE_COLUMNS) in words that a compiler does not see through: software drivers unroll the loops over it, and
// then compile for seconds. lid is below 256.
fn reduceColumnCount(lid: u32) -> u32 {
  return min(WG, REDUCE_COLUMNS) + (lid >> 16u);
}

fn reduceSum(value: f32, lid: u32) -> f32 {
  let columns = reduceColumnCount(lid);
  reduceValues[lid] = value;
  workgroupBarrier();
  if (lid < columns) {
    var sum = 0.0;
    for (var i = lid; i < WG; i += columns) { sum += reduceValues[i]; }
    reduceColumns[lid] = sum;
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < columns; i++) { total += reduceColumns[i]; }
  return total;
}

fn reduceMax(value: f32, lid: u32) -> f32 {
  let columns = reduceColumnCount(lid);
  reduceValues[lid] = value;
  workgroupBarrier();
  if (lid < columns) {
    var largest = value;
    for (var i = lid; i < WG; i += columns) { largest = max(largest, reduceValues[i]); }
    reduceColumns[lid] = largest;
  }
  workgroupBarrier();
  var largest = value;
  for (var i = 0u; i < columns; i++) { largest = max(largest, reduceColumns[i]); }
  return largest;
}

// Component by component.
fn reduceSum4(value: vec4f, lid: u32) -> vec4f {
  let columns = reduceColumnCount(lid);
  reduceValues4[lid] = value;
  workgroupBarrier();
  if (lid < columns) {
    var sum = vec4f();
    for (var i = lid; i < WG; i += columns) { sum += reduceValues4[i]; }
    reduceColumns4[lid] = sum;
  }
  workgroupBarrier();
  var total = vec4f();
  for (var i = 0u; i < columns; i++) { total += reduceColumns4[i]; }
  return total;
}

// Component by component.
fn reduceMax4(value: vec4f, lid: u32) -> vec4f {
  let columns = reduceColumnCount(lid);
  reduceValues4[lid] = value;
  workgroupBarrier();
  if (lid < columns) {
    var largest = value;
    for (var i = lid; i < WG; i += columns) { largest = max(largest, reduceValues4[i]); }
    reduceColumns4[lid] = largest;
  }
  workgroupBarrier();
  var largest = value;
  for (var i = 0u; i < columns; i++) { largest = max(largest, reduceColumns4[i]); }
  return largest;
}
