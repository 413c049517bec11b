// Matrix product for many rows at a time (prefill), for software adapters with subgroups, where workgroup memory costs
// what storage costs and each load much more than a multiplication:
//   y[row, outOffset + n] = scale * sum over k of W[n, k] * x[row, k]  (+ bias[n])
// for each row that lib/rows-*.wgsl gives and each row n of one piece of W, dequantised on the way.
//
// Bindings as in matmul.wgsl. An invocation multiplies 2 rows n by 4 rows of x, a unit of 32 columns at a time; all
// invocations of a workgroup want the same activations and load them in common (lib/input-shared.wgsl). Rows n outside of
// the piece are clamped to its last one, rows of x past the tile to its last one, and neither is stored.
// Workgroup memory: none.
//
// Order of summation: by column, one chain, as in matmul.wgsl. It never depends on the number of rows.

override HAS_BIAS: bool = false;
override ACCUMULATE: bool = false; // y += the product
override LIMIT: f32; // the largest finite number of out_t: y saturates there

const LANES = 16u;
const TILE_ROWS = 4u;

struct Op {
  columns: u32,
  tiles: u32, // tiles in a row of weights
  units: u32, // units of 32 columns in a row of weights, the last one perhaps filled up with zeros
  firstRow: u32, // the piece's first row in the whole matrix
  pieceRows: u32,
  outStride: u32, // elements between rows of y
  outOffset: u32, // of the first row that is computed
  scale: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> x: array<input_t>;
@group(0) @binding(3) var<storage, read_write> y: array<out_t>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

// Adds the products of 4 columns of one row of weights with the same columns of 4 rows of x.
fn multiply(sum: vec4f, w: vec4f, x0: vec4f, x1: vec4f, x2: vec4f, x3: vec4f) -> vec4f {
  let a = fma(vec4f(w.x), vec4f(x0.x, x1.x, x2.x, x3.x), sum);
  let b = fma(vec4f(w.y), vec4f(x0.y, x1.y, x2.y, x3.y), a);
  let c = fma(vec4f(w.z), vec4f(x0.z, x1.z, x2.z, x3.z), b);
  return fma(vec4f(w.w), vec4f(x0.w, x1.w, x2.w, x3.w), c);
}

fn store(tile: Tile, entry: u32, n: u32, sum: f32) {
  if (entry >= tile.end || !isComputed(tile, n)) {
    return;
  }
  var value = sum * op.scale;
  if (HAS_BIAS) {
    value += bias[biasOf(tile, n)];
  }
  let at = outputRow(entry) * op.outStride + op.outOffset + n - tile.start;
  if (ACCUMULATE) {
    value += f32(y[at]);
  }
  y[at] = out_t(bounded(value, LIMIT));
}

fn storeRows(tile: Tile, entry: u32, n: u32, sums: vec4f) {
  store(tile, entry, n, sums.x);
  store(tile, entry + 1u, n, sums.y);
  store(tile, entry + 2u, n, sums.z);
  store(tile, entry + 3u, n, sums.w);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let seat = inputSeat();
  let tile = tileOf(group.y, TILE_ROWS, group.x * 2u * LANES, 2u * LANES);
  if (tile.first >= tile.end) {
    return;
  }
  let entry = tile.first;
  let last = tile.end - 1u;
  let n = tile.start + group.x * 2u * LANES + lane; // and n + LANES
  let n0 = min(n, op.pieceRows - 1u);
  let n1 = min(n + LANES, op.pieceRows - 1u);
  var s0 = vec4f();
  var s1 = vec4f();
  for (var unit = 0u; unit < op.units; unit++) {
    let w0 = decodeUnit(n0, unit, op.tiles);
    let w1 = decodeUnit(n1, unit, op.tiles);
    let x0 = loadUnit(inputRow(entry), unit, op.columns, seat);
    let x1 = loadUnit(inputRow(min(entry + 1u, last)), unit, op.columns, seat);
    let x2 = loadUnit(inputRow(min(entry + 2u, last)), unit, op.columns, seat);
    let x3 = loadUnit(inputRow(min(entry + 3u, last)), unit, op.columns, seat);
    s0 = multiply(s0, w0.w0, x0.w0, x1.w0, x2.w0, x3.w0);
    s1 = multiply(s1, w1.w0, x0.w0, x1.w0, x2.w0, x3.w0);
    s0 = multiply(s0, w0.w1, x0.w1, x1.w1, x2.w1, x3.w1);
    s1 = multiply(s1, w1.w1, x0.w1, x1.w1, x2.w1, x3.w1);
    s0 = multiply(s0, w0.w2, x0.w2, x1.w2, x2.w2, x3.w2);
    s1 = multiply(s1, w1.w2, x0.w2, x1.w2, x2.w2, x3.w2);
    s0 = multiply(s0, w0.w3, x0.w3, x1.w3, x2.w3, x3.w3);
    s1 = multiply(s1, w1.w3, x0.w3, x1.w3, x2.w3, x3.w3);
    s0 = multiply(s0, w0.w4, x0.w4, x1.w4, x2.w4, x3.w4);
    s1 = multiply(s1, w1.w4, x0.w4, x1.w4, x2.w4, x3.w4);
    s0 = multiply(s0, w0.w5, x0.w5, x1.w5, x2.w5, x3.w5);
    s1 = multiply(s1, w1.w5, x0.w5, x1.w5, x2.w5, x3.w5);
    s0 = multiply(s0, w0.w6, x0.w6, x1.w6, x2.w6, x3.w6);
    s1 = multiply(s1, w1.w6, x0.w6, x1.w6, x2.w6, x3.w6);
    s0 = multiply(s0, w0.w7, x0.w7, x1.w7, x2.w7, x3.w7);
    s1 = multiply(s1, w1.w7, x0.w7, x1.w7, x2.w7, x3.w7);
  }
  storeRows(tile, entry, n, s0);
  storeRows(tile, entry, n + LANES, s1);
}
