// Mamba-2, chunk form, 3 of 4: the state at the start of every chunk, and after the step.
//   S_next[n, p] = exp(sum_last) S[n, p] + sum over the chunk's rows j of tail_j X[j, p] B[j, n]
//
// convolved as in lib/mamba-rows; scratch and state as in lib/mamba: sums and tails are read, entries written; sequence 0
// reads and writes the state slots that the step gives it.
// Needs lib/step, lib/mamba, lib/mamba-rows, lib/mamba-fours. Grid: x = heads * (headDim / WG rounded up), y = stateSize / 16 rounded up.
// An invocation owns 16 entries n of one p, in registers over all rows. Workgroup memory: none.
// Float order: rows in rising order.

override WG: u32 = 64u; // invocations, one a p

@group(0) @binding(3) var<storage, read_write> scratch: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;

fn load4(at: u32, n: u32) -> vec4f {
  var values = vec4f();
  if (n < op.stateSize) { values.x = state[at + n * op.headDim]; }
  if (n + 1u < op.stateSize) { values.y = state[at + (n + 1u) * op.headDim]; }
  if (n + 2u < op.stateSize) { values.z = state[at + (n + 2u) * op.headDim]; }
  if (n + 3u < op.stateSize) { values.w = state[at + (n + 3u) * op.headDim]; }
  return values;
}

fn keep4(at: u32, n: u32, values: vec4f) {
  if (n < op.stateSize) { scratch[at + n * op.headDim] = values.x; }
  if (n + 1u < op.stateSize) { scratch[at + (n + 1u) * op.headDim] = values.y; }
  if (n + 2u < op.stateSize) { scratch[at + (n + 2u) * op.headDim] = values.z; }
  if (n + 3u < op.stateSize) { scratch[at + (n + 3u) * op.headDim] = values.w; }
}

fn store4(at: u32, n: u32, values: vec4f) {
  if (n < op.stateSize) { state[at + n * op.headDim] = values.x; }
  if (n + 1u < op.stateSize) { state[at + (n + 1u) * op.headDim] = values.y; }
  if (n + 2u < op.stateSize) { state[at + (n + 2u) * op.headDim] = values.z; }
  if (n + 3u < op.stateSize) { state[at + (n + 3u) * op.headDim] = values.w; }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let blocks = (op.headDim + WG - 1u) / WG;
  let head = wid.x / blocks;
  let p = wid.x % blocks * WG + lid;
  if (p >= op.headDim) { return; }
  let group = head / (op.heads / op.groups);
  let n = wid.y * 16u;
  let matrix = head * op.stateSize * op.headDim + p;

  var s0 = vec4f();
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  let slot = stateRead(0u);
  if (slot != NO_STATE) {
    let at = slot * op.stateStride + op.stateOffset + matrix;
    s0 = load4(at, n);
    s1 = load4(at, n + 4u);
    s2 = load4(at, n + 8u);
    s3 = load4(at, n + 12u);
  }

  for (var first = 0u; first < step.rows; first += CHUNK) {
    let chunk = first / CHUNK;
    let count = min(CHUNK, step.rows - first);
    let entries = entriesAt(chunk) + matrix;
    keep4(entries, n, s0);
    keep4(entries, n + 4u, s1);
    keep4(entries, n + 8u, s2);
    keep4(entries, n + 12u, s3);

    let decay = exp(scratch[sumsAt(chunk) + (count - 1u) * op.heads + head]);
    s0 *= decay;
    s1 *= decay;
    s2 *= decay;
    s3 *= decay;
    let tails = tailsAt(chunk) + head;
    for (var j = 0u; j < count; j++) {
      let x = convolved[(first + j) * op.convWidth + head * op.headDim + p] * scratch[tails + j * op.heads];
      let ins = inAt(first + j, group);
      s0 += x * four(ins, n);
      s1 += x * four(ins, n + 4u);
      s2 += x * four(ins, n + 8u);
      s3 += x * four(ins, n + 12u);
    }
  }

  let at = stateWrite(0u) * op.stateStride + op.stateOffset + matrix;
  store4(at, n, s0);
  store4(at, n + 4u, s1);
  store4(at, n + 8u, s2);
  store4(at, n + 12u, s3);
}
