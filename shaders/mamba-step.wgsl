// Mamba-2, step form: one row of each sequence, for decode.
//   S'[n, p] = exp(dt a[head]) S[n, p] + dt X[p] B[n];  y[p] = sum over n of C[n] S'[n, p]
// with dt = softplus(dt[row, head] + dtBias[head]).
//
// convolved as in lib/mamba-rows; mixed f32 [rows, mixedStride], its last op.heads columns dt; dtBias and a (negative)
// f32 [heads]; state as in lib/mamba: sequence r reads and writes the slots that the step gives it; y f32 [rows, inner].
// Needs lib/step, lib/mamba, lib/mamba-rows and one of the lib/mamba-state files.
// Grid: x = heads * (headDim / (4 LANES) rounded up), y = rows. Of the WG invocations each owns four p and every
// PARTS-th n; together they read and write the state once, neighbours neighbouring floats.
// Workgroup memory: 16 * WG bytes.
// Float order: n in rising order within a part, then the parts in rising order: a function of the row alone.

override WG: u32 = 64u;
override LANES: u32 = 16u; // invocations side by side in p
override PARTS: u32 = WG / LANES;

@group(0) @binding(2) var<storage, read> mixed: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<state_t>;
@group(0) @binding(4) var<storage, read> dtBias: array<f32>;
@group(0) @binding(5) var<storage, read> a: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

var<workgroup> shares: array<vec4f, WG>;

@compute @workgroup_size(LANES, PARTS)
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lid: u32,
) {
  let blocks = (op.headDim + 4u * LANES - 1u) / (4u * LANES);
  let head = wid.x / blocks;
  let p = (wid.x % blocks * LANES + local.x) * 4u;
  let group = head / (op.heads / op.groups);
  let row = wid.y;

  let width = softplus(mixed[(row + 1u) * op.mixedStride - op.heads + head] + dtBias[head]);
  let decay = exp(logDecay(width, a[head]));
  let slot = stateRead(row);
  let matrix = op.stateOffset + head * op.stateSize * op.headDim;
  let before = slot * op.stateStride + matrix;
  let after = stateWrite(row) * op.stateStride + matrix;
  let ins = inAt(row, group);
  let outs = outAt(row, group);

  var sum = vec4f();
  if (p < op.headDim) {
    let x = width * singles(xAt(row, head), p, op.headDim);
    for (var n = local.y; n < op.stateSize; n += PARTS) {
      var s = vec4f();
      if (slot != NO_STATE) { s = stateFour(before + n * op.headDim, p); }
      s = decay * s + convolved[ins + n] * x;
      setStateFour(after + n * op.headDim, p, s);
      sum += convolved[outs + n] * s;
    }
  }
  if (PARTS > 1u) {
    shares[lid] = sum;
    workgroupBarrier();
    sum = vec4f();
    for (var part = 0u; part < PARTS; part++) { sum += shares[part * LANES + local.x]; }
  }
  if (local.y == 0u) {
    let at = row * inner() + head * op.headDim + p;
    if (p < op.headDim) { y[at] = sum.x; }
    if (p + 1u < op.headDim) { y[at + 1u] = sum.y; }
    if (p + 2u < op.headDim) { y[at + 2u] = sum.z; }
    if (p + 3u < op.headDim) { y[at + 3u] = sum.w; }
  }
}
