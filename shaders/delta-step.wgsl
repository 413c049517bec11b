// The gated delta rule, one token of each sequence (decode). For value head h with key head kh:
//   S <- alpha S;  delta = beta (v - S^T k);  S <- S + k delta^T;  y = S^T q
// with q and k normalised to length 1, q / sqrt(keyDim), and alpha, beta as in lib/delta.
//
// mixed f32 [rows, mixedStride] (b and a are read), convolved f32 [rows, q | k | v], dtBias and a f32 [valueHeads],
// state f32 [slots][stateStride] (at stateOffset the matrices [valueHeads][keyDim][valueDim]), y f32 [rows, valueHeads *
// valueDim].
// Needs lib/step and lib/delta. Grid: x = valueDim / COLUMNS rounded up, y = valueHeads, z = sequences.
//
// An invocation holds 16 rows of one column of S in registers: the state is read and written once, neighbours touching
// neighbouring floats. Since y = alpha S^T q + (q.k) delta with S before the step, one reduction over the PARTS that
// share a column serves everything: S^T k, S^T q, k.k, q.q and q.k of the numbers as they stand, scaled afterwards.
// The slot read is never the slot written. Columns past valueDim repeat the last one and are not written.
// Workgroup memory: 8 WG + 16 PARTS bytes, at most 2.5 KiB.
// Float order: 16 rows in rising order, then the parts in rising order. It depends on the sizes alone.

override PARTS: u32; // keyDim / 16 rounded up
override COLUMNS: u32;
override WG: u32; // PARTS * COLUMNS, at most 256

@group(0) @binding(1) var<storage, read> mixed: array<f32>;
@group(0) @binding(2) var<storage, read> convolved: array<f32>;
@group(0) @binding(3) var<storage, read> dtBias: array<f32>;
@group(0) @binding(4) var<storage, read> a: array<f32>;
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

var<workgroup> sums: array<vec2f, WG>; // S^T k and S^T q over the rows of an invocation
var<workgroup> products: array<vec3f, PARTS>; // k.k, q.q and q.k over the rows of a part

fn inputs4(at: u32, d: u32) -> vec4f {
  if (d + 4u <= op.keyDim) {
    return vec4f(convolved[at + d], convolved[at + d + 1u], convolved[at + d + 2u], convolved[at + d + 3u]);
  }
  var values = vec4f();
  if (d < op.keyDim) { values.x = convolved[at + d]; }
  if (d + 1u < op.keyDim) { values.y = convolved[at + d + 1u]; }
  if (d + 2u < op.keyDim) { values.z = convolved[at + d + 2u]; }
  return values;
}

// Rows d .. d+3 of a column; `at` is the column's place in row 0.
fn state4(at: u32, d: u32) -> vec4f {
  let first = at + d * op.valueDim;
  var values = vec4f();
  if (d < op.keyDim) { values.x = state[first]; }
  if (d + 1u < op.keyDim) { values.y = state[first + op.valueDim]; }
  if (d + 2u < op.keyDim) { values.z = state[first + 2u * op.valueDim]; }
  if (d + 3u < op.keyDim) { values.w = state[first + 3u * op.valueDim]; }
  return values;
}

fn writeState4(at: u32, d: u32, values: vec4f) {
  let first = at + d * op.valueDim;
  if (d < op.keyDim) { state[first] = values.x; }
  if (d + 1u < op.keyDim) { state[first + op.valueDim] = values.y; }
  if (d + 2u < op.keyDim) { state[first + 2u * op.valueDim] = values.z; }
  if (d + 3u < op.keyDim) { state[first + 3u * op.valueDim] = values.w; }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let head = wid.y;
  let row = wid.z;
  let part = lid / COLUMNS;
  let wanted = wid.x * COLUMNS + lid % COLUMNS;
  let column = min(wanted, op.valueDim - 1u);
  let input = row * convolvedStride();
  let d = part * 16u;

  let kAt = input + kOffset(head);
  let qAt = input + qOffset(head);
  let k = mat4x4f(inputs4(kAt, d), inputs4(kAt, d + 4u), inputs4(kAt, d + 8u), inputs4(kAt, d + 12u));
  let q = mat4x4f(inputs4(qAt, d), inputs4(qAt, d + 4u), inputs4(qAt, d + 8u), inputs4(qAt, d + 12u));
  var s = mat4x4f();
  let slot = stateRead(row);
  if (slot != NO_STATE) {
    let at = matrixOffset(slot, head) + column;
    s = mat4x4f(state4(at, d), state4(at, d + 4u), state4(at, d + 8u), state4(at, d + 12u));
  }

  sums[lid] = vec2f(
    ((dot(s[0], k[0]) + dot(s[1], k[1])) + dot(s[2], k[2])) + dot(s[3], k[3]),
    ((dot(s[0], q[0]) + dot(s[1], q[1])) + dot(s[2], q[2])) + dot(s[3], q[3]),
  );
  if (lid % COLUMNS == 0u) {
    products[part] = vec3f(
      ((dot(k[0], k[0]) + dot(k[1], k[1])) + dot(k[2], k[2])) + dot(k[3], k[3]),
      ((dot(q[0], q[0]) + dot(q[1], q[1])) + dot(q[2], q[2])) + dot(q[3], q[3]),
      ((dot(q[0], k[0]) + dot(q[1], k[1])) + dot(q[2], k[2])) + dot(q[3], k[3]),
    );
  }
  workgroupBarrier();
  var sum = vec2f();
  var product = vec3f();
  for (var p = 0u; p < PARTS; p++) {
    sum += sums[p * COLUMNS + lid % COLUMNS];
    product += products[p];
  }

  let gates = row * op.mixedStride + gateIndex(head);
  let beta = sigmoid(mixed[gates + op.bOffset]);
  let alpha = exp(a[head] * softplus(mixed[gates + op.aOffset] + dtBias[head]));
  let kFactor = 1.0 / sqrt(product.x + NORM_EPS);
  let qFactor = op.qScale / sqrt(product.y + NORM_EPS);
  let v = convolved[input + vOffset(head) + column];
  let delta = beta * (v - alpha * kFactor * sum.x);
  if (wanted >= op.valueDim) { return; }
  if (part == 0u) {
    y[(row * op.valueHeads + head) * op.valueDim + column] =
      alpha * qFactor * sum.y + product.z * kFactor * qFactor * delta;
  }
  let to = matrixOffset(stateWrite(row), head) + column;
  let change = kFactor * delta;
  writeState4(to, d, alpha * s[0] + change * k[0]);
  writeState4(to, d + 4u, alpha * s[1] + change * k[1]);
  writeState4(to, d + 8u, alpha * s[2] + change * k[2]);
  writeState4(to, d + 12u, alpha * s[3] + change * k[3]);
}
