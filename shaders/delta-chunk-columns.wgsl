// The gated delta rule from run to run with the state (prefill), for software adapters with subgroups, where a load costs
// far more than a shuffle or a multiplication: what delta-chunk.wgsl computes, with its bindings.
//
// An invocation owns a whole column of S and every row of it, so that all invocations of a workgroup want the same
// entries of k, q and the prepared matrices at a time: each of SHARE invocations of a subgroup loads some and passes them
// on. Nobody waits for anybody: what an invocation keeps in workgroup memory is its own.
// Needs lib/step and lib/delta. Grid: x = valueDim / COLUMNS rounded up, y = valueHeads. All rows are of sequence 0.
// Rows are taken by eights; those past the step's end stand for the last one and are not kept. Control flow is uniform
// but for writes, because all invocations take part in the loads.
// Workgroup memory: 4 COLUMNS (keyDim + 64) bytes, at most 12 KiB.
// Float order: sums over keys' entries and over rows in rising order. It depends on the row's place in the step.

override SHARE: u32 = 4u; // 8, or 4 where subgroups may be smaller than 8; there are no smaller ones than 4
override COLUMNS: u32; // at least 8
override MATRIX: u32; // keyDim * COLUMNS
override ROW_FLOATS: u32 = 32u * COLUMNS;

@group(0) @binding(1) var<storage, read> convolved: array<f32>;
@group(0) @binding(2) var<storage, read> runs: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

var<workgroup> matrix: array<f32, MATRIX>; // S: [keyDim][COLUMNS]
var<workgroup> updates: array<f32, ROW_FLOATS>; // V - enter (S^T k), then U, then leave U: [32][COLUMNS]
var<workgroup> results: array<f32, ROW_FLOATS>; // S^T q, likewise

struct Eight {
  a: vec4f, // 0 .. 3
  b: vec4f, // 4 .. 7
}

// The invocation's place among those that load together.
fn loadSeat() -> u32 { return subgroupExclusiveAdd(1u) % SHARE; }

// Numbers 0 .. 3 of the seats' p, and 4 .. 7 of their p, or with four seats of their q.
fn spread(p: f32, q: f32) -> Eight {
  return Eight(
    vec4f(subgroupShuffle(p, 0u), subgroupShuffle(p, 1u), subgroupShuffle(p, 2u), subgroupShuffle(p, 3u)),
    vec4f(
      subgroupShuffle(q, 4u % SHARE),
      subgroupShuffle(q, 5u % SHARE),
      subgroupShuffle(q, 6u % SHARE),
      subgroupShuffle(q, 7u % SHARE),
    ),
  );
}

// Eight numbers that all want, `stride` apart from `at` on; those past number `last` repeat it.
fn convolved8(at: u32, stride: u32, last: u32, seat: u32) -> Eight {
  let p = convolved[at + min(seat, last) * stride];
  var q = p;
  if (SHARE == 4u) { q = convolved[at + min(seat + 4u, last) * stride]; }
  return spread(p, q);
}

fn runs8(at: u32, stride: u32, last: u32, seat: u32) -> Eight {
  let p = runs[at + min(seat, last) * stride];
  var q = p;
  if (SHARE == 4u) { q = runs[at + min(seat + 4u, last) * stride]; }
  return spread(p, q);
}

// Numbers of eight rows of a column, from row i on; those from `count` on are left out.
fn keepUpdates(i: u32, count: u32, lid: u32, values: Eight) {
  let at = i * COLUMNS + lid;
  updates[at] = values.a.x;
  if (i + 1u < count) { updates[at + COLUMNS] = values.a.y; }
  if (i + 2u < count) { updates[at + 2u * COLUMNS] = values.a.z; }
  if (i + 3u < count) { updates[at + 3u * COLUMNS] = values.a.w; }
  if (i + 4u < count) { updates[at + 4u * COLUMNS] = values.b.x; }
  if (i + 5u < count) { updates[at + 5u * COLUMNS] = values.b.y; }
  if (i + 6u < count) { updates[at + 6u * COLUMNS] = values.b.z; }
  if (i + 7u < count) { updates[at + 7u * COLUMNS] = values.b.w; }
}

fn keepResults(i: u32, lid: u32, values: Eight) {
  let at = i * COLUMNS + lid;
  results[at] = values.a.x;
  results[at + COLUMNS] = values.a.y;
  results[at + 2u * COLUMNS] = values.a.z;
  results[at + 3u * COLUMNS] = values.a.w;
  results[at + 4u * COLUMNS] = values.b.x;
  results[at + 5u * COLUMNS] = values.b.y;
  results[at + 6u * COLUMNS] = values.b.z;
  results[at + 7u * COLUMNS] = values.b.w;
}

// Eight rows of the invocation's own column.
fn eightValues(at: u32, stride: u32, last: u32) -> Eight {
  let a = vec4u(at) + min(vec4u(0u, 1u, 2u, 3u), vec4u(last)) * stride;
  let b = vec4u(at) + min(vec4u(4u, 5u, 6u, 7u), vec4u(last)) * stride;
  return Eight(
    vec4f(convolved[a.x], convolved[a.y], convolved[a.z], convolved[a.w]),
    vec4f(convolved[b.x], convolved[b.y], convolved[b.z], convolved[b.w]),
  );
}

// read (S^T q) of eight rows from row `row` of the step on, number i of the run, and what U is solved from.
fn enter(run: u32, head: u32, row: u32, i: u32, count: u32, column: u32, lid: u32, seat: u32) {
  let stride = convolvedStride();
  let last = count - 1u - i;
  let k = row * stride + kOffset(head);
  let q = row * stride + qOffset(head);
  var known = Eight();
  var result = Eight();
  for (var d = 0u; d < op.keyDim; d++) {
    let s = matrix[d * COLUMNS + lid];
    let keys = convolved8(k + d, stride, last, seat);
    known.a += s * keys.a;
    known.b += s * keys.b;
    let queries = convolved8(q + d, stride, last, seat);
    result.a += s * queries.a;
    result.b += s * queries.b;
  }
  let values = eightValues(row * stride + vOffset(head) + column, stride, last);
  let entering = runs8(run + ENTER + i, 1u, last, seat);
  let reading = runs8(run + READ + i, 1u, last, seat);
  keepUpdates(i, count, lid, Eight(values.a - entering.a * known.a, values.b - entering.b * known.b));
  keepResults(i, lid, Eight(reading.a * result.a, reading.b * result.b));
}

// Eight rows from i on of a prepared lower triangular matrix times the column in `updates`.
fn product(matrixAt: u32, i: u32, count: u32, lid: u32, seat: u32) -> Eight {
  let last = count - 1u - i;
  let at = matrixAt + i * RUN;
  var sum = Eight();
  for (var j = 0u; j < i; j++) {
    let factors = runs8(at + j, RUN, last, seat);
    let update = updates[j * COLUMNS + lid];
    sum.a += update * factors.a;
    sum.b += update * factors.b;
  }
  for (var j = 0u; j <= min(last, 7u); j++) { // the eight's own rows: above the diagonal stands nothing
    let factors = runs8(at + i + j, RUN, last, seat);
    let update = updates[(i + j) * COLUMNS + lid];
    sum.a += update * select(vec4f(), factors.a, vec4u(j) <= vec4u(0u, 1u, 2u, 3u));
    sum.b += update * select(vec4f(), factors.b, vec4u(j) <= vec4u(4u, 5u, 6u, 7u));
  }
  return sum;
}

fn storeRow(row: u32, head: u32, column: u32, value: f32) {
  y[(row * op.valueHeads + head) * op.valueDim + column] = value;
}

// y of eight rows from row `row` of the step on, number i of the run.
fn storeRows(head: u32, row: u32, i: u32, count: u32, column: u32, lid: u32, sum: Eight) {
  if (column >= op.valueDim) { return; }
  let at = i * COLUMNS + lid;
  storeRow(row, head, column, results[at] + sum.a.x);
  if (i + 1u < count) { storeRow(row + 1u, head, column, results[at + COLUMNS] + sum.a.y); }
  if (i + 2u < count) { storeRow(row + 2u, head, column, results[at + 2u * COLUMNS] + sum.a.z); }
  if (i + 3u < count) { storeRow(row + 3u, head, column, results[at + 3u * COLUMNS] + sum.a.w); }
  if (i + 4u < count) { storeRow(row + 4u, head, column, results[at + 4u * COLUMNS] + sum.b.x); }
  if (i + 5u < count) { storeRow(row + 5u, head, column, results[at + 5u * COLUMNS] + sum.b.y); }
  if (i + 6u < count) { storeRow(row + 6u, head, column, results[at + 6u * COLUMNS] + sum.b.z); }
  if (i + 7u < count) { storeRow(row + 7u, head, column, results[at + 7u * COLUMNS] + sum.b.w); }
}

fn changeEntry(d: u32, lid: u32, keep: f32, change: f32) {
  let at = d * COLUMNS + lid;
  matrix[at] = keep * matrix[at] + change;
}

// S <- pass S + sum_j k_j (leave_j U_j)^T, eight rows of S at a time.
fn leave(run: u32, k: u32, count: u32, lid: u32, seat: u32) {
  let stride = convolvedStride();
  let keep = runs[run + PASS];
  for (var j = 0u; j < count; j++) { updates[j * COLUMNS + lid] *= runs[run + LEAVE + j]; }
  for (var d = 0u; d < op.keyDim; d += 8u) {
    var sum = Eight();
    for (var j = 0u; j < count; j++) {
      let keys = convolved8(k + d + j * stride, 1u, op.keyDim - 1u - d, seat);
      let update = updates[j * COLUMNS + lid];
      sum.a += update * keys.a;
      sum.b += update * keys.b;
    }
    changeEntry(d, lid, keep, sum.a.x);
    if (d + 1u < op.keyDim) { changeEntry(d + 1u, lid, keep, sum.a.y); }
    if (d + 2u < op.keyDim) { changeEntry(d + 2u, lid, keep, sum.a.z); }
    if (d + 3u < op.keyDim) { changeEntry(d + 3u, lid, keep, sum.a.w); }
    if (d + 4u < op.keyDim) { changeEntry(d + 4u, lid, keep, sum.b.x); }
    if (d + 5u < op.keyDim) { changeEntry(d + 5u, lid, keep, sum.b.y); }
    if (d + 6u < op.keyDim) { changeEntry(d + 6u, lid, keep, sum.b.z); }
    if (d + 7u < op.keyDim) { changeEntry(d + 7u, lid, keep, sum.b.w); }
  }
}

@compute @workgroup_size(COLUMNS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let head = wid.y;
  let seat = loadSeat();
  let wanted = wid.x * COLUMNS + lid;
  let column = min(wanted, op.valueDim - 1u);
  let slot = stateRead(0u);
  if (slot != NO_STATE) {
    let at = matrixOffset(slot, head) + column;
    for (var d = 0u; d < op.keyDim; d++) { matrix[d * COLUMNS + lid] = state[at + d * op.valueDim]; }
  }

  for (var first = 0u; first < step.rows; first += RUN) {
    let count = min(RUN, step.rows - first);
    let run = (first / RUN * op.valueHeads + head) * RUN_FLOATS;
    for (var i = 0u; i < count; i += 8u) { enter(run, head, first + i, i, count, column, lid, seat); }
    // U replaces what it is made of from the last rows on: a row needs those above it.
    for (var next = (count + 7u) / 8u; next > 0u; next--) {
      let i = (next - 1u) * 8u;
      keepUpdates(i, count, lid, product(run, i, count, lid, seat));
    }
    for (var i = 0u; i < count; i += 8u) {
      storeRows(head, first + i, i, count, wanted, lid, product(run + ATTEND, i, count, lid, seat));
    }
    leave(run, kOffset(head) + first * convolvedStride(), count, lid, seat);
  }

  if (wanted >= op.valueDim) { return; }
  let at = matrixOffset(stateWrite(0u), head) + column;
  for (var d = 0u; d < op.keyDim; d++) { state[at + d * op.valueDim] = matrix[d * COLUMNS + lid]; }
}
