// Embedding lookup with dequantisation: hidden[row, :] = scale * E[tokens[rowToken(row)], :].
//
// Bindings: weights: one piece of E in panels of 16 rows (src/model/matrix/formats.ts); tokens: u32 ids; hidden: f32
// [rows, columns]. An invocation writes one unit of 32 columns of one row. Tokens outside the piece are left alone:
// every id lies in exactly one piece, and each piece has its own dispatch. No workgroup memory; no sums.

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

fn store(row: u32, column: u32, w: vec4f) {
  let base = row * op.columns + column;
  let values = w * op.scale;
  if (column < op.columns) {
    hidden[base] = values.x;
  }
  if (column + 1u < op.columns) {
    hidden[base + 1u] = values.y;
  }
  if (column + 2u < op.columns) {
    hidden[base + 2u] = values.z;
  }
  if (column + 3u < op.columns) {
    hidden[base + 3u] = values.w;
  }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let unit = id.x;
  let row = id.y;
  if (unit >= op.units || row >= step.rows) {
    return;
  }
  let n = tokens[rowToken(row)] - op.firstRow; // wraps round for ids below the piece, to more than pieceRows
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
