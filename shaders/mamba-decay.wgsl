// Mamba-2, chunk form, 1 of 4: step widths and decays of every head.
//   dt_i = softplus(dt[i, head] + dtBias[head]);  sum_i = sum over j <= i of the chunk of dt_j a[head]
//   tail_i = exp(sum_last - sum_i) dt_i
//
// mixed f32 [rows, mixedStride], its last op.heads columns dt; dtBias and a (negative) f32 [heads]; scratch as in
// lib/mamba, of which sums, widths and tails are written.
// Needs lib/step and lib/mamba. Grid: x = heads / WG rounded up, y = chunks. Workgroup memory: none.
// Each invocation reads back only what it wrote itself.
// Float order: sums in rising order of rows, from the chunk's start.

override WG: u32 = 64u;

@group(0) @binding(1) var<storage, read> mixed: array<f32>;
@group(0) @binding(2) var<storage, read> dtBias: array<f32>;
@group(0) @binding(3) var<storage, read> a: array<f32>;
@group(0) @binding(4) var<storage, read_write> scratch: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let head = wid.x * WG + lid;
  if (head >= op.heads) { return; }
  let chunk = wid.y;
  let first = chunk * CHUNK;
  let count = min(CHUNK, step.rows - first);
  let sums = sumsAt(chunk) + head;
  let widths = widthsAt(chunk) + head;
  let tails = tailsAt(chunk) + head;

  let dt = first * op.mixedStride + op.mixedStride - op.heads + head;
  var sum = 0.0;
  for (var i = 0u; i < count; i++) {
    let width = softplus(mixed[dt + i * op.mixedStride] + dtBias[head]);
    sum += logDecay(width, a[head]);
    scratch[sums + i * op.heads] = sum;
    scratch[widths + i * op.heads] = width;
  }
  for (var i = 0u; i < count; i++) {
    scratch[tails + i * op.heads] = exp(sum - scratch[sums + i * op.heads]) * scratch[widths + i * op.heads];
  }
}
