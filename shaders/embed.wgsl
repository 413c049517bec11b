// Embedding lookup with dequantisation: hidden[row, :] = scale * E[tokens[rowToken(row)], :], or what is added to it:
// (POSITIONS) hidden[row, :] += scale * E[rowPosition(row), :], or (FIRST) hidden[row, :] += scale * E[0, :].
//
// Bindings: weights: one piece of E in panels of 16 rows (src/model/matrix/formats.ts); tokens: u32 ids; hidden: f32
// [rows, columns]. An invocation writes one unit of 32 columns of one row. Tokens outside the piece are left alone:
// every id (or position) lies in exactly one piece, and each piece has its own dispatch. No workgroup memory; no sums.

override POSITIONS: bool = false;
override FIRST: bool = false;

struct Op {
  columns: u32,
  tiles: u32, // tiles in a row of weights
  units: u32, // units of 32 columns in a row of weights, the last one perhaps filled up with zeros
  firstRow: u32, // the piece's first row in the whole matrix
  pieceRows: u32,
  scale: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> hidden: array<f32>;

fn storeOne(row: u32, column: u32, value: f32) {
  if (column >= op.columns) { return; }
  let at = row * op.columns + column;
  if (POSITIONS || FIRST) { hidden[at] += value; } else { hidden[at] = value; }
}

fn store(row: u32, column: u32, w: vec4f) {
  let values = w * op.scale;
  storeOne(row, column, values.x);
  storeOne(row, column + 1u, values.y);
  storeOne(row, column + 2u, values.z);
  storeOne(row, column + 3u, values.w);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let unit = id.x;
  let row = id.y;
  if (unit >= op.units || row >= step.rows) {
    return;
  }
  var wanted = 0u;
  if (POSITIONS) { wanted = rowPosition(row); } else if (!FIRST) { wanted = tokens[rowToken(row)]; }
  let n = wanted - op.firstRow; // wraps round for ids below the piece, to more than pieceRows
  if (n >= op.pieceRows) {
    return;
  }
  let w = decodeUnit(n, unit, op.tiles);
  let column = unit * 32u;
  store(row, column, w.w0);
  store(row, column + 4u, w.w1);
  store(row, column + 8u, w.w2);
  store(row, column + 12u, w.w3);
  store(row, column + 16u, w.w4);
  store(row, column + 20u, w.w5);
  store(row, column + 24u, w.w6);
  store(row, column + 28u, w.w7);
}
