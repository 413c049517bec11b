// Mamba-2, step form: one row of each sequence, for decode.
//   S'[n, p] = exp(dt a[head]) S[n, p] + dt X[p] B[n];  y[p] = sum over n of C[n] S'[n, p]
// with dt = softplus(dt[row, head] + dtBias[head]).
//
// convolved as in lib/mamba-rows; mixed f32 [rows, mixedStride], its last op.heads columns dt; dtBias and
// a (negative) f32 [heads]; state as in lib/mamba: sequence r reads and writes the slots that the step gives it;
// y f32 [rows, inner].
// Needs lib/step, lib/mamba, lib/mamba-rows. Grid: x = heads * (headDim / LANES rounded up), y = rows.
// WG invocations: each owns one p and every PARTS-th four of n. Reads and writes the state once, neighbouring
// invocations neighbouring floats. Workgroup memory: 4 * WG bytes.
// Float order: fours of n in rising order within a part, then the parts in rising order: a function of the row alone.

override WG: u32 = 64u;
override LANES: u32 = 64u; // of WG: one a p
override PARTS: u32 = WG / LANES;

@group(0) @binding(2) var<storage, read> mixed: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<storage, read> dtBias: array<f32>;
@group(0) @binding(5) var<storage, read> a: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

var<workgroup> shares: array<f32, WG>;

fn load4(at: u32, n: u32) -> vec4f {
  let places = at + min(n + vec4u(0u, 1u, 2u, 3u), vec4u(op.stateSize - 1u)) * op.headDim;
  return vec4f(state[places.x], state[places.y], state[places.z], state[places.w]);
}

fn store4(at: u32, n: u32, values: vec4f) {
  let place = at + n * op.headDim;
  state[place] = values.x;
  if (n + 1u < op.stateSize) { state[place + op.headDim] = values.y; }
  if (n + 2u < op.stateSize) { state[place + 2u * op.headDim] = values.z; }
  if (n + 3u < op.stateSize) { state[place + 3u * op.headDim] = values.w; }
}

@compute @workgroup_size(LANES, PARTS)
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lid: u32,
) {
  let blocks = (op.headDim + LANES - 1u) / LANES;
  let head = wid.x / blocks;
  let p = wid.x % blocks * LANES + local.x;
  let group = head / (op.heads / op.groups);
  let column = head * op.headDim + p;
  let row = wid.y;

  let width = softplus(mixed[(row + 1u) * op.mixedStride - op.heads + head] + dtBias[head]);
  let decay = exp(logDecay(width, a[head]));
  let slot = stateRead(row);
  let matrix = op.stateOffset + head * op.stateSize * op.headDim + p;
  let before = slot * op.stateStride + matrix;
  let after = stateWrite(row) * op.stateStride + matrix;
  let ins = inAt(row, group);
  let outs = outAt(row, group);

  var sum = 0.0;
  if (p < op.headDim) {
    let input = width * convolved[row * op.convWidth + column];
    for (var n = local.y * 4u; n < op.stateSize; n += PARTS * 4u) {
      var s = vec4f();
      if (slot != NO_STATE) { s = load4(before, n); }
      s = decay * s + input * singles(ins, n);
      store4(after, n, s);
      sum += dot(singles(outs, n), s);
    }
  }
  if (PARTS > 1u) {
    shares[lid] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var part = 0u; part < PARTS; part++) { sum += shares[part * LANES + local.x]; }
  }
  if (p < op.headDim && local.y == 0u) { y[row * inner() + column] = sum; }
}
