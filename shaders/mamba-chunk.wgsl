// Mamba-2, chunk form, 4 of 4: the output of every row, from the state at its chunk's start and the chunk's rows so far.
//   y[i, p] = exp(sum_i) sum over n of C[i, n] S[n, p]  +  sum over j <= i of weights[j][i] X[j, p]
//
// convolved as in lib/mamba-rows; scratch as in lib/mamba, bound twice, as numbers and as fours;
// y f32 [rows, inner].
// Needs lib/step, lib/mamba, lib/mamba-rows, lib/mamba-fours. Grid: x = heads * (headDim / WG rounded up), y = rows / SPAN rounded up.
// An invocation owns one p of SPAN rows of one chunk. All invocations of a workgroup want the same C and weights at the
// same time, and neighbouring X and S. Workgroup memory: none.
// Float order: n in fours in rising order, times the decay; then rows j in rising order.

override WG: u32 = 64u; // invocations, one a p

@group(0) @binding(3) var<storage, read> scratch: array<f32>;
@group(0) @binding(4) var<storage, read> scratch4: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Rows row to row + 3; those past the step stand for its last one, and are not stored.
fn fourRows(row: u32) -> vec4u { return min(row + vec4u(0u, 1u, 2u, 3u), vec4u(step.rows - 1u)); }

// Where C of four rows starts.
fn outsAt(row: u32, group: u32) -> vec4u { return outAt(0u, group) + fourRows(row) * op.convWidth; }

fn dots(at: vec4u, n: u32, s: vec4f) -> vec4f {
  return vec4f(dot(four(at.x, n), s), dot(four(at.y, n), s), dot(four(at.z, n), s), dot(four(at.w, n), s));
}

// Entries n to n + 3 of the state's column at `at`; past its end the last one again, which meets zeros of C.
fn stateFour(at: u32, n: u32) -> vec4f {
  let places = at + min(n + vec4u(0u, 1u, 2u, 3u), vec4u(op.stateSize - 1u)) * op.headDim;
  return vec4f(scratch[places.x], scratch[places.y], scratch[places.z], scratch[places.w]);
}

// The decay from the chunk's start to each of four rows.
fn decays(sums: u32, row: u32) -> vec4f {
  let at = sums + fourRows(row) % CHUNK * op.heads;
  return exp(vec4f(scratch[at.x], scratch[at.y], scratch[at.z], scratch[at.w]));
}

fn store(row: u32, column: u32, value: f32) {
  if (row < step.rows) { y[row * inner() + column] = value; }
}

fn store4(row: u32, column: u32, values: vec4f) {
  store(row, column, values.x);
  store(row + 1u, column, values.y);
  store(row + 2u, column, values.z);
  store(row + 3u, column, values.w);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let blocks = (op.headDim + WG - 1u) / WG;
  let head = wid.x / blocks;
  let p = wid.x % blocks * WG + lid;
  if (p >= op.headDim) { return; }
  let group = head / (op.heads / op.groups);
  let column = head * op.headDim + p;
  let row = wid.y * SPAN;
  let chunk = row / CHUNK;

  let outs0 = outsAt(row, group);
  let outs1 = outsAt(row + 4u, group);
  let outs2 = outsAt(row + 8u, group);
  let outs3 = outsAt(row + 12u, group);
  let entries = entriesAt(chunk) + head * op.stateSize * op.headDim + p;
  var y0 = vec4f();
  var y1 = vec4f();
  var y2 = vec4f();
  var y3 = vec4f();
  for (var n = 0u; n < op.stateSize; n += 4u) {
    let s = stateFour(entries, n);
    y0 += dots(outs0, n, s);
    y1 += dots(outs1, n, s);
    y2 += dots(outs2, n, s);
    y3 += dots(outs3, n, s);
  }
  let sums = sumsAt(chunk) + head;
  y0 *= decays(sums, row);
  y1 *= decays(sums, row + 4u);
  y2 *= decays(sums, row + 8u);
  y3 *= decays(sums, row + 12u);

  let first = chunk * CHUNK;
  let end = min(row + SPAN, step.rows);
  for (var j = first; j < end; j++) {
    let x = convolved[j * op.convWidth + column];
    let at = (weightsAt(chunk) + (head * CHUNK + j - first) * CHUNK + row - first) / 4u;
    y0 += x * scratch4[at];
    y1 += x * scratch4[at + 1u];
    y2 += x * scratch4[at + 2u];
    y3 += x * scratch4[at + 3u];
  }

  store4(row, column, y0);
  store4(row + 4u, column, y1);
  store4(row + 8u, column, y2);
  store4(row + 12u, column, y3);
}
