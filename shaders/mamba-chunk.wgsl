// Mamba-2, chunk form, 4 of 4: the output of every row, from the state at its chunk's start and the chunk's rows so far.
//   y[i, p] = exp(sum_i) sum over n of C[i, n] S[n, p]  +  sum over j <= i of weights[j][i] X[j, p]
//
// convolved as in lib/mamba-rows; scratch as in lib/mamba, bound twice, as numbers and as fours; y f32 [rows, inner].
// Needs lib/step, lib/mamba, lib/mamba-rows, lib/mamba-fours. Grid: x = heads * (headDim / (4 LANES) rounded up),
// y = rows / SPAN rounded up.
// A workgroup owns SPAN rows of one chunk and 4 LANES entries p, an invocation 4 RUNS rows and 4 of p.
// Workgroup memory: none.
// Float order: n in fours in rising order, times the decay; then rows j in rising order.

override LANES: u32 = 16u; // invocations side by side in p
override RUNS: u32 = 1u; // of 4 rows, of an invocation: 1 or 4

@group(0) @binding(3) var<storage, read> scratch: array<f32>;
@group(0) @binding(4) var<storage, read> scratch4: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Rows row to row + 3; those past the step stand for its last one, and are not stored.
fn fourRows(row: u32) -> vec4u { return min(row + vec4u(0u, 1u, 2u, 3u), vec4u(step.rows - 1u)); }

// Where C of four rows starts.
fn outsAt(row: u32, group: u32) -> vec4u { return outAt(0u, group) + fourRows(row) * op.convWidth; }

// Four entries p of the state at row n; past its ends entries that meet zeros of C or are not stored.
fn entry4(matrix: u32, n: u32, p: u32) -> vec4f {
  if (ALIGNED) { return scratch4[(matrix + n * op.headDim + p) / 4u]; }
  let at = matrix + min(n, op.stateSize - 1u) * op.headDim;
  let places = at + min(p + vec4u(0u, 1u, 2u, 3u), vec4u(op.headDim - 1u));
  return vec4f(scratch[places.x], scratch[places.y], scratch[places.z], scratch[places.w]);
}

// Four entries n (columns) of four p.
fn entryRun(matrix: u32, n: u32, p: u32) -> mat4x4f {
  return mat4x4f(
    entry4(matrix, n, p),
    entry4(matrix, n + 1u, p),
    entry4(matrix, n + 2u, p),
    entry4(matrix, n + 3u, p),
  );
}

// What four rows read in four entries n.
fn outRun(outs: vec4u, n: u32) -> mat4x4f {
  return mat4x4f(
    four(outs.x, n, op.stateSize),
    four(outs.y, n, op.stateSize),
    four(outs.z, n, op.stateSize),
    four(outs.w, n, op.stateSize),
  );
}

// The decay from the chunk's start to each of four rows.
fn decays(sums: u32, row: u32) -> vec4f {
  let at = sums + fourRows(row) % CHUNK * op.heads;
  return exp(vec4f(scratch[at.x], scratch[at.y], scratch[at.z], scratch[at.w]));
}

fn outer(x: vec4f, w: vec4f) -> mat4x4f { return mat4x4f(x * w.x, x * w.y, x * w.z, x * w.w); }

fn decayed(run: mat4x4f, decay: vec4f) -> mat4x4f {
  return mat4x4f(run[0] * decay.x, run[1] * decay.y, run[2] * decay.z, run[3] * decay.w);
}

fn store(row: u32, head: u32, p: u32, value: vec4f) {
  if (row >= step.rows) { return; }
  let at = row * inner() + head * op.headDim + p;
  y[at] = value.x;
  if (p + 1u < op.headDim) { y[at + 1u] = value.y; }
  if (p + 2u < op.headDim) { y[at + 2u] = value.z; }
  if (p + 3u < op.headDim) { y[at + 3u] = value.w; }
}

fn storeRun(row: u32, head: u32, p: u32, run: mat4x4f) {
  store(row, head, p, run[0]);
  store(row + 1u, head, p, run[1]);
  store(row + 2u, head, p, run[2]);
  store(row + 3u, head, p, run[3]);
}

@compute @workgroup_size(LANES, 4u / RUNS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let blocks = (op.headDim + 4u * LANES - 1u) / (4u * LANES);
  let head = wid.x / blocks;
  let p = (wid.x % blocks * LANES + local.x) * 4u;
  let row = wid.y * SPAN + local.y * 4u * RUNS;
  if (p >= op.headDim || row >= step.rows) { return; }
  let group = head / (op.heads / op.groups);
  let chunk = row / CHUNK;

  let outs0 = outsAt(row, group);
  let outs1 = outsAt(row + 4u, group);
  let outs2 = outsAt(row + 8u, group);
  let outs3 = outsAt(row + 12u, group);
  let matrix = entriesAt(chunk) + head * op.stateSize * op.headDim;
  // Columns are rows of the step.
  var y0 = mat4x4f();
  var y1 = mat4x4f();
  var y2 = mat4x4f();
  var y3 = mat4x4f();
  for (var n = 0u; n < op.stateSize; n += 4u) {
    let s = entryRun(matrix, n, p);
    y0 += s * outRun(outs0, n);
    if (RUNS > 1u) {
      y1 += s * outRun(outs1, n);
      y2 += s * outRun(outs2, n);
      y3 += s * outRun(outs3, n);
    }
  }
  let sums = sumsAt(chunk) + head;
  y0 = decayed(y0, decays(sums, row));
  if (RUNS > 1u) {
    y1 = decayed(y1, decays(sums, row + 4u));
    y2 = decayed(y2, decays(sums, row + 8u));
    y3 = decayed(y3, decays(sums, row + 12u));
  }

  let first = chunk * CHUNK;
  let end = min(row + 4u * RUNS, step.rows);
  for (var j = first; j < end; j++) {
    let x = four(xAt(j, head), p, op.headDim);
    let at = (weightsAt(chunk) + (head * CHUNK + j - first) * CHUNK + row - first) / 4u;
    y0 += outer(x, scratch4[at]);
    if (RUNS > 1u) {
      y1 += outer(x, scratch4[at + 1u]);
      y2 += outer(x, scratch4[at + 2u]);
      y3 += outer(x, scratch4[at + 3u]);
    }
  }

  storeRun(row, head, p, y0);
  if (RUNS > 1u) {
    storeRun(row + 4u, head, p, y1);
    storeRun(row + 8u, head, p, y2);
    storeRun(row + 12u, head, p, y3);
  }
}
