// The gated delta rule over runs of 32 rows (prefill), second part: from run to run with the state. Of value head h, with
// the matrices and factors that delta-prepare.wgsl made, and k, q as they stand in `convolved`:
//   U   = solve (V - enter (S^T k))          rows i of the run, columns of the value
//   y   = read (S^T q) + attend U
//   S  <- pass S + sum_j leave_j k_j U_j^T
//
// convolved f32 [rows, q | k | v], runs as delta-prepare.wgsl has it, state f32 [slots][stateStride] (at stateOffset the
// matrices [valueHeads][keyDim][valueDim]), y f32 [rows, valueHeads * valueDim].
// Needs lib/step and lib/delta. Grid: x = valueDim / (4 QUADS) rounded up, y = valueHeads. All rows are of sequence 0.
//
// Columns of S are independent: a workgroup owns 4 QUADS of them and keeps them in workgroup memory over the whole step.
// An invocation owns four columns (quad) of rows `lane` and `lane + 16` of a run, and in the last line of every
// sixteenth row of S. Three barriers a run: residuals are written before the first and read before the second, U is
// written before the second and read before the third, S is read before the first and written after the second.
// The slot read is never the slot written. Columns past valueDim repeat the last one and are not written.
// Workgroup memory: 16 QUADS (keyDim + 64) bytes, at most 12 KiB.
// Float order: sums over keys' entries and over rows in rising order. It depends on the row's place in the step.

override QUADS: u32; // 2 or 4
override MATRIX: u32; // keyDim * QUADS
override WG: u32 = 16u * QUADS;
override ROW_QUADS: u32 = 32u * QUADS;

const LANES: u32 = 16u; // rows in the workgroup

@group(0) @binding(1) var<storage, read> convolved: array<f32>;
@group(0) @binding(2) var<storage, read> runs: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

var<workgroup> matrix: array<vec4f, MATRIX>; // S: [keyDim][QUADS]
var<workgroup> residuals: array<vec4f, ROW_QUADS>; // [32][QUADS]
var<workgroup> updates: array<vec4f, ROW_QUADS>; // U, likewise

// Places of four columns from `column` on, those past the last standing for it.
fn columns4(column: u32) -> vec4u {
  return min(vec4u(column, column + 1u, column + 2u, column + 3u), vec4u(op.valueDim - 1u));
}

fn loadMatrix(head: u32, columns: vec4u, quad: u32, lane: u32) {
  let slot = stateRead(0u);
  for (var d = lane; d < op.keyDim; d += LANES) {
    var values = vec4f();
    if (slot != NO_STATE) {
      let at = columns + matrixOffset(slot, head) + d * op.valueDim;
      values = vec4f(state[at.x], state[at.y], state[at.z], state[at.w]);
    }
    matrix[d * QUADS + quad] = values;
  }
}

fn storeMatrix(head: u32, column: u32, quad: u32, lane: u32) {
  let start = matrixOffset(stateWrite(0u), head) + column;
  for (var d = lane; d < op.keyDim; d += LANES) {
    let at = start + d * op.valueDim;
    let values = matrix[d * QUADS + quad];
    if (column < op.valueDim) { state[at] = values.x; }
    if (column + 1u < op.valueDim) { state[at + 1u] = values.y; }
    if (column + 2u < op.valueDim) { state[at + 2u] = values.z; }
    if (column + 3u < op.valueDim) { state[at + 3u] = values.w; }
  }
}

fn storeRow(row: u32, head: u32, column: u32, values: vec4f) {
  let at = (row * op.valueHeads + head) * op.valueDim + column;
  if (column < op.valueDim) { y[at] = values.x; }
  if (column + 1u < op.valueDim) { y[at + 1u] = values.y; }
  if (column + 2u < op.valueDim) { y[at + 2u] = values.z; }
  if (column + 3u < op.valueDim) { y[at + 3u] = values.w; }
}

fn values4(row: u32, head: u32, columns: vec4u) -> vec4f {
  let at = columns + row * convolvedStride() + vOffset(head);
  return vec4f(convolved[at.x], convolved[at.y], convolved[at.z], convolved[at.w]);
}

// S <- pass S + sum_j leave_j k_j U_j^T, four rows of S at a time.
fn advance(run: u32, k: u32, count: u32, quad: u32, lane: u32) {
  let stride = convolvedStride();
  let keep = runs[run + PASS];
  for (var d = lane; d < op.keyDim; d += 4u * LANES) {
    let at = min(vec4u(d, d + LANES, d + 2u * LANES, d + 3u * LANES), vec4u(op.keyDim - 1u));
    var sums = mat4x4f();
    for (var j = 0u; j < count; j++) {
      let update = runs[run + LEAVE + j] * updates[j * QUADS + quad];
      let keys = at + k + j * stride;
      sums += mat4x4f(
        convolved[keys.x] * update,
        convolved[keys.y] * update,
        convolved[keys.z] * update,
        convolved[keys.w] * update,
      );
    }
    let places = at * QUADS + quad;
    matrix[places.x] = keep * matrix[places.x] + sums[0];
    if (d + LANES < op.keyDim) { matrix[places.y] = keep * matrix[places.y] + sums[1]; }
    if (d + 2u * LANES < op.keyDim) { matrix[places.z] = keep * matrix[places.z] + sums[2]; }
    if (d + 3u * LANES < op.keyDim) { matrix[places.w] = keep * matrix[places.w] + sums[3]; }
  }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let head = wid.y;
  let quad = lid % QUADS;
  let lane = lid / QUADS;
  let column = (wid.x * QUADS + quad) * 4u;
  let columns = columns4(column);
  let stride = convolvedStride();
  loadMatrix(head, columns, quad, lane);
  workgroupBarrier();

  for (var first = 0u; first < step.rows; first += RUN) {
    let count = min(RUN, step.rows - first);
    let run = (first / RUN * op.valueHeads + head) * RUN_FLOATS;
    let other = lane + LANES;
    let row0 = first + min(lane, count - 1u);
    let row1 = first + min(other, count - 1u);
    let k0 = row0 * stride + kOffset(head);
    let k1 = row1 * stride + kOffset(head);
    let q0 = row0 * stride + qOffset(head);
    let q1 = row1 * stride + qOffset(head);
    var known0 = vec4f(); // S^T k
    var known1 = vec4f();
    var result0 = vec4f(); // S^T q
    var result1 = vec4f();
    for (var d = 0u; lane < count && d < op.keyDim; d++) {
      let s = matrix[d * QUADS + quad];
      known0 += convolved[k0 + d] * s;
      known1 += convolved[k1 + d] * s;
      result0 += convolved[q0 + d] * s;
      result1 += convolved[q1 + d] * s;
    }
    if (lane < count) {
      residuals[lane * QUADS + quad] = values4(row0, head, columns) - runs[run + ENTER + lane] * known0;
    }
    if (other < count) {
      residuals[other * QUADS + quad] = values4(row1, head, columns) - runs[run + ENTER + other] * known1;
    }
    workgroupBarrier();

    if (lane < count) {
      var update = vec4f();
      for (var j = 0u; j <= lane; j++) { update += runs[run + lane * RUN + j] * residuals[j * QUADS + quad]; }
      updates[lane * QUADS + quad] = update;
    }
    if (other < count) {
      var update = vec4f();
      for (var j = 0u; j <= other; j++) { update += runs[run + other * RUN + j] * residuals[j * QUADS + quad]; }
      updates[other * QUADS + quad] = update;
    }
    workgroupBarrier();

    if (lane < count) {
      result0 *= runs[run + READ + lane];
      for (var j = 0u; j <= lane; j++) { result0 += runs[run + ATTEND + lane * RUN + j] * updates[j * QUADS + quad]; }
      storeRow(row0, head, column, result0);
    }
    if (other < count) {
      result1 *= runs[run + READ + other];
      for (var j = 0u; j <= other; j++) { result1 += runs[run + ATTEND + other * RUN + j] * updates[j * QUADS + quad]; }
      storeRow(row1, head, column, result1);
    }
    advance(run, kOffset(head) + first * stride, count, quad, lane);
    workgroupBarrier();
  }
  storeMatrix(head, column, quad, lane);
}
