// Mamba-2, chunk form, 3 of 4: the state at the start of every chunk, and after the step.
//   S_next[n, p] = exp(sum_last) S[n, p] + sum over the chunk's rows j of tail_j X[j, p] B[j, n]
//
// convolved as in lib/mamba-rows; scratch and state as in lib/mamba: sums and tails are read, entries written; sequence 0
// reads and writes the state slots that the step gives it.
// Needs lib/step, lib/mamba, lib/mamba-rows, lib/mamba-fours and one of the lib/mamba-state files.
// Grid: x = heads * (headDim / (4 LANES) rounded up), y = stateSize / SPAN rounded up.
// A workgroup owns SPAN entries n of 4 LANES entries p, an invocation 4 RUNS of n and 4 of p, in registers over all rows.
// Workgroup memory: none.
// Float order: rows in rising order.

override LANES: u32 = 16u; // invocations side by side in p
override RUNS: u32 = 1u; // of 4 entries n, of an invocation: 1 or 4

@group(0) @binding(3) var<storage, read_write> state: array<state_t>;
@group(0) @binding(4) var<storage, read_write> scratch: array<f32>;

// Four entries n (columns) of four p. Those past the sizes are never stored.
fn loadRun(matrix: u32, n: u32, p: u32) -> mat4x4f {
  let at = matrix + min(n + vec4u(0u, 1u, 2u, 3u), vec4u(op.stateSize - 1u)) * op.headDim;
  return mat4x4f(stateFour(at.x, p), stateFour(at.y, p), stateFour(at.z, p), stateFour(at.w, p));
}

fn keepRun(matrix: u32, n: u32, p: u32, run: mat4x4f) {
  for (var i = 0u; i < 4u && n + i < op.stateSize; i++) {
    let at = matrix + (n + i) * op.headDim + p;
    scratch[at] = run[i].x;
    if (p + 1u < op.headDim) { scratch[at + 1u] = run[i].y; }
    if (p + 2u < op.headDim) { scratch[at + 2u] = run[i].z; }
    if (p + 3u < op.headDim) { scratch[at + 3u] = run[i].w; }
  }
}

fn storeRun(matrix: u32, n: u32, p: u32, run: mat4x4f) {
  for (var i = 0u; i < 4u && n + i < op.stateSize; i++) { setStateFour(matrix + (n + i) * op.headDim, p, run[i]); }
}

fn outer(x: vec4f, b: vec4f) -> mat4x4f { return mat4x4f(x * b.x, x * b.y, x * b.z, x * b.w); }

@compute @workgroup_size(LANES, 4u / RUNS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let blocks = (op.headDim + 4u * LANES - 1u) / (4u * LANES);
  let head = wid.x / blocks;
  let p = (wid.x % blocks * LANES + local.x) * 4u;
  let n = wid.y * SPAN + local.y * 4u * RUNS;
  if (p >= op.headDim || n >= op.stateSize) { return; }
  let group = head / (op.heads / op.groups);
  let matrix = head * op.stateSize * op.headDim;

  var s0 = mat4x4f();
  var s1 = mat4x4f();
  var s2 = mat4x4f();
  var s3 = mat4x4f();
  let slot = stateRead(0u);
  if (slot != NO_STATE) {
    let at = slot * op.stateStride + op.stateOffset + matrix;
    s0 = loadRun(at, n, p);
    if (RUNS > 1u) {
      s1 = loadRun(at, n + 4u, p);
      s2 = loadRun(at, n + 8u, p);
      s3 = loadRun(at, n + 12u, p);
    }
  }

  for (var first = 0u; first < step.rows; first += CHUNK) {
    let chunk = first / CHUNK;
    let count = min(CHUNK, step.rows - first);
    let entries = entriesAt(chunk) + matrix;
    let decay = exp(scratch[sumsAt(chunk) + (count - 1u) * op.heads + head]);
    keepRun(entries, n, p, s0);
    s0 *= decay;
    if (RUNS > 1u) {
      keepRun(entries, n + 4u, p, s1);
      keepRun(entries, n + 8u, p, s2);
      keepRun(entries, n + 12u, p, s3);
      s1 *= decay;
      s2 *= decay;
      s3 *= decay;
    }
    let tails = tailsAt(chunk) + head;
    for (var j = 0u; j < count; j++) {
      let x = four(xAt(first + j, head), p, op.headDim) * scratch[tails + j * op.heads];
      let ins = inAt(first + j, group);
      s0 += outer(x, four(ins, n, op.stateSize));
      if (RUNS > 1u) {
        s1 += outer(x, four(ins, n + 4u, op.stateSize));
        s2 += outer(x, four(ins, n + 8u, op.stateSize));
        s3 += outer(x, four(ins, n + 12u, op.stateSize));
      }
    }
  }

  let at = stateWrite(0u) * op.stateStride + op.stateOffset + matrix;
  storeRun(at, n, p, s0);
  if (RUNS > 1u) {
    storeRun(at, n + 4u, p, s1);
    storeRun(at, n + 8u, p, s2);
    storeRun(at, n + 12u, p, s3);
  }
}
