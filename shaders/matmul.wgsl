// Matrix product for many rows at a time (prefill), for real GPUs:
//   y[row, outOffset + n] = scale * sum over k of W[n, k] * x[row, k]  (+ bias[n])
// for each row that lib/rows-*.wgsl gives and each row n of one piece of W, dequantised once a workgroup.
// On software adapters matmul-lanes.wgsl does the same without workgroup memory.
//
// Bindings: weights: a piece in panels of 16 rows (src/model/matrix/formats.ts); x: elem [rows, columns]; y: out_t
// [rows, outStride]; bias: f32 [rows of the whole matrix], read where HAS_BIAS.
// A workgroup of 128 computes 64 rows n by 32 rows of x, 32 columns (a unit) at a time: half of it decodes 64 units of
// W, the other half loads 32 rows of x, then each invocation multiplies 4 rows n by 4 rows of x. Rows n outside
// of the piece are clamped to its last one, rows of x past the tile to its last one, and neither is stored.
// Workgroup memory: (64 + 32) rows * 8 vec4f = 12,288 bytes. Vector j of tile row i lies at i * 8 + (j ^ (i & 7)), so
// that neighbouring invocations, which read neighbouring rows, meet different banks.
//
// Order of summation: by column, one chain. It depends on columns alone, never on the number of rows.

override HAS_BIAS: bool = false;
override ACCUMULATE: bool = false; // y += the product
override LIMIT: f32; // the largest finite number of out_t: y saturates there

const TILE_N = 64u;
const TILE_ROWS = 32u;

struct Op {
  columns: u32,
  tiles: u32, // tiles in a row of weights
  units: u32, // units of 32 columns in a row of weights, the last one perhaps filled up with zeros
  firstRow: u32, // the piece's first row in the whole matrix
  pieceRows: u32,
  outStride: u32, // elements between rows of y
  outOffset: u32, // of the first row that is computed
  scale: f32,
  quads: u32, // 8, vec4s in a unit: not a constant, since unrolling costs software adapters seconds of compilation
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> x: array<input_t>;
@group(0) @binding(3) var<storage, read_write> y: array<out_t>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

var<workgroup> wTile: array<vec4f, TILE_N * 8u>;
var<workgroup> xTile: array<vec4f, TILE_ROWS * 8u>;

fn fillWeights(i: u32, n: u32, unit: u32) {
  let w = decodeUnit(n, unit, op.tiles);
  let base = i * 8u;
  let swizzle = i & 7u;
  wTile[base + (0u ^ swizzle)] = w.w0;
  wTile[base + (1u ^ swizzle)] = w.w1;
  wTile[base + (2u ^ swizzle)] = w.w2;
  wTile[base + (3u ^ swizzle)] = w.w3;
  wTile[base + (4u ^ swizzle)] = w.w4;
  wTile[base + (5u ^ swizzle)] = w.w5;
  wTile[base + (6u ^ swizzle)] = w.w6;
  wTile[base + (7u ^ swizzle)] = w.w7;
}

// Loads the tile of x: 64 invocations, vector j of every eighth row each, so that eight read one row's 32 columns.
fn fillInputs(i: u32, first: u32, last: u32, unit: u32) {
  let j = i % 8u;
  for (var t = i / 8u; t < TILE_ROWS; t += 8u) {
    xTile[t * 8u + (j ^ (t & 7u))] = loadInput(inputRow(min(first + t, last)), unit * 8u + j, op.columns);
  }
}

// Adds the product of 4 columns of one row of weights with the same columns of 4 rows of x, which come transposed.
fn multiply(sum: vec4f, w: vec4f, x0: vec4f, x1: vec4f, x2: vec4f, x3: vec4f) -> vec4f {
  return fma(vec4f(w.w), x3, fma(vec4f(w.z), x2, fma(vec4f(w.y), x1, fma(vec4f(w.x), x0, sum))));
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
  store(tile, entry + 8u, n, sums.y);
  store(tile, entry + 16u, n, sums.z);
  store(tile, entry + 24u, n, sums.w);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) id: u32) {
  let tile = tileOf(group.y, TILE_ROWS, group.x * TILE_N, TILE_N);
  if (tile.first >= tile.end) {
    return;
  }
  let firstN = tile.start + group.x * TILE_N;
  let lastN = op.pieceRows - 1u;
  let n = id % 16u; // and n + 16, n + 32, n + 48
  let t = id / 16u; // and t + 8, t + 16, t + 24
  var s0 = vec4f();
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  for (var unit = 0u; unit < op.units; unit++) {
    if (id < 64u) {
      fillWeights(id, min(firstN + id, lastN), unit);
    } else {
      fillInputs(id - 64u, tile.first, tile.end - 1u, unit);
    }
    workgroupBarrier();
    for (var j = 0u; j < op.quads; j++) {
      let xBase = t * 8u + (j ^ (t & 7u));
      let c = transpose(mat4x4f(xTile[xBase], xTile[xBase + 64u], xTile[xBase + 128u], xTile[xBase + 192u]));
      let wBase = n * 8u + (j ^ (n & 7u));
      s0 = multiply(s0, wTile[wBase], c[0], c[1], c[2], c[3]);
      s1 = multiply(s1, wTile[wBase + 128u], c[0], c[1], c[2], c[3]);
      s2 = multiply(s2, wTile[wBase + 256u], c[0], c[1], c[2], c[3]);
      s3 = multiply(s3, wTile[wBase + 384u], c[0], c[1], c[2], c[3]);
    }
    workgroupBarrier();
  }
  storeRows(tile, tile.first + t, firstN + n, s0);
  storeRows(tile, tile.first + t, firstN + n + 16u, s1);
  storeRows(tile, tile.first + t, firstN + n + 32u, s2);
  storeRows(tile, tile.first + t, firstN + n + 48u, s3);
}
