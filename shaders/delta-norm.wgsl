// The end of a gated delta mixer: RMS norm of each head's output, then its gate.
//   out[row, h] = y[row, h] / sqrt(mean(y^2) + eps) * weight * silu(z[row, h])
//
// y f32 [rows, valueHeads * valueDim], mixed f32 [rows, mixedStride] (z is read, at zOffset), weight f32 [valueDim],
// out elem [rows, valueHeads * valueDim], saturating at LIMIT.
// Needs lib/step, lib/bounded and lib/delta. Grid: x = rows * valueHeads / 16 rounded up. 256 invocations: 16 heads, 16 for each.
// Workgroup memory: 1 KiB.
// Float order: each invocation sums every 16th square in rising order, then those 16 sums in rising order.

override LIMIT: f32; // the largest finite number of elem

const LANES: u32 = 16u;

@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> mixed: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<elem>;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let lane = lid % LANES;
  let wanted = wid.x * 16u + lid / LANES;
  let pair = min(wanted, step.rows * op.valueHeads - 1u);
  let start = pair * op.valueDim;
  var squares = 0.0;
  for (var c = lane; c < op.valueDim; c += LANES) { squares += y[start + c] * y[start + c]; }
  partial[lid] = squares;
  workgroupBarrier();
  if (wanted != pair) { return; }
  var sum = 0.0;
  for (var i = 0u; i < LANES; i++) { sum += partial[lid - lane + i]; }
  let scale = 1.0 / sqrt(sum / f32(op.valueDim) + op.eps);
  let z = pair / op.valueHeads * op.mixedStride + op.zOffset + pair % op.valueHeads * op.valueDim;
  for (var c = lane; c < op.valueDim; c += LANES) {
    let gate = mixed[z + c];
    let value = y[start + c] * scale * weight[c] * (gate * sigmoid(gate));
    out[start + c] = elem(bounded(value, LIMIT));
  }
}
