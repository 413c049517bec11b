// A product for each head: y[row, head, n] = sum over c of W[head * outDim + n, c] * x[row, head, c].
//
// W: one piece of a matrix of HEADS * outDim rows in panels of 16 rows (src/model/matrix/formats.ts). x elem
// [rows, xStride] with head h at h * xPerHead; y elem [rows, yStride] with head h at h * yPerHead.
// Needs lib/step, lib/bounded, lib/format-unit and a format. Grid: x = rows of the piece / 64 rounded up, y = rows / ROWS rounded
// up. An invocation computes a row of W for ROWS rows of x, so that each block is decoded once for them. No workgroup memory.
// Float order: columns in rising order, four at a time.

override LIMIT: f32; // the largest finite number of elem

const ROWS = 4u;

struct Op {
  columns: u32,
  tiles: u32, // tiles in a row of weights
  units: u32, // units of 32 columns in a row of weights, the last one perhaps filled up with zeros
  firstRow: u32, // the piece's first row in the whole matrix
  pieceRows: u32,
  outDim: u32,
  xStride: u32,
  xPerHead: u32,
  yStride: u32,
  yPerHead: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> x: array<elem>;
@group(0) @binding(3) var<storage, read_write> y: array<elem>;

// Four columns of x from `at` on, zeros behind the last.
fn four(at: u32, column: u32) -> vec4f {
  if (column >= op.columns) { return vec4f(); } // columns are a multiple of 4
  return vec4f(f32(x[at + column]), f32(x[at + column + 1u]), f32(x[at + column + 2u]), f32(x[at + column + 3u]));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = id.y * ROWS;
  if (id.x >= op.pieceRows || first >= step.rows) { return; }
  let row = op.firstRow + id.x;
  let head = row / op.outDim;
  var sums = vec4f();
  for (var unit = 0u; unit < op.units; unit++) {
    let w = decodeUnit(id.x, unit, op.tiles);
    for (var r = 0u; r < ROWS; r++) {
      let at = min(first + r, step.rows - 1u) * op.xStride + head * op.xPerHead;
      let c = unit * 32u;
      sums[r] += dot(w.w0, four(at, c)) + dot(w.w1, four(at, c + 4u)) + dot(w.w2, four(at, c + 8u))
        + dot(w.w3, four(at, c + 12u)) + dot(w.w4, four(at, c + 16u)) + dot(w.w5, four(at, c + 20u))
        + dot(w.w6, four(at, c + 24u)) + dot(w.w7, four(at, c + 28u));
    }
  }
  for (var r = 0u; r < min(ROWS, step.rows - first); r++) {
    let to = (first + r) * op.yStride + head * op.yPerHead + row % op.outDim;
    y[to] = elem(bounded(sums[r], LIMIT));
  }
}
