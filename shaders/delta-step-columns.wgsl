// The gated delta rule, one token of each sequence (decode), for software adapters, where barriers and loads cost far more
// than multiplications: what delta-step.wgsl computes, with its bindings. An invocation owns a whole column of S and
// passes over it twice; nobody waits for anybody.
// Columns past valueDim repeat the last one and are not written.
//
// Needs lib/step and lib/delta. Grid: x = valueDim / 64 rounded up, y = valueHeads, z = sequences. No workgroup memory.
// Float order: rows in rising order. It depends on the sizes alone.

@group(0) @binding(1) var<storage, read> mixed: array<f32>;
@group(0) @binding(2) var<storage, read> convolved: array<f32>;
@group(0) @binding(3) var<storage, read> dtBias: array<f32>;
@group(0) @binding(4) var<storage, read> a: array<f32>;
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let head = wid.y;
  let row = wid.z;
  let wanted = wid.x * 64u + lid;
  let column = min(wanted, op.valueDim - 1u);
  let input = row * convolvedStride();
  let kAt = input + kOffset(head);
  let qAt = input + qOffset(head);
  let slot = stateRead(row);
  let known = slot != NO_STATE;
  let start = matrixOffset(select(slot, 0u, !known), head) + column;

  var kk = 0.0;
  var qq = 0.0;
  var qk = 0.0;
  var sk = 0.0;
  var sq = 0.0;
  for (var d = 0u; d < op.keyDim; d++) {
    let k = convolved[kAt + d];
    let q = convolved[qAt + d];
    kk += k * k;
    qq += q * q;
    qk += q * k;
    if (known) {
      let s = state[start + d * op.valueDim];
      sk += s * k;
      sq += s * q;
    }
  }

  let gates = row * op.mixedStride + gateIndex(head);
  let beta = sigmoid(mixed[gates + op.bOffset]);
  let alpha = exp(a[head] * softplus(mixed[gates + op.aOffset] + dtBias[head]));
  let kFactor = 1.0 / sqrt(kk + NORM_EPS);
  let qFactor = op.qScale / sqrt(qq + NORM_EPS);
  let v = convolved[input + vOffset(head) + column];
  let delta = beta * (v - alpha * kFactor * sk);
  if (wanted >= op.valueDim) { return; }
  y[(row * op.valueHeads + head) * op.valueDim + column] = alpha * qFactor * sq + qk * kFactor * qFactor * delta;
  let to = matrixOffset(stateWrite(row), head) + column;
  let change = kFactor * delta;
  for (var d = 0u; d < op.keyDim; d++) {
    var s = 0.0;
    if (known) { s = alpha * state[start + d * op.valueDim]; }
    state[to + d * op.valueDim] = s + change * convolved[kAt + d];
  }
}
