// Matrix-vector product for a few rows at a time (decode):
//   y[row, outOffset + n] = scale * sum over k of W[n, k] * x[row, k]  (+ bias[n])
// for each row that lib/rows-*.wgsl gives and each row n of one piece of W, dequantised on the way.
//
// Bindings: weights: a piece in panels of 16 rows (src/model/matrix/formats.ts); x: elem [rows, columns]; y: out_t
// [rows, outStride]; bias: f32 [rows of the whole matrix], read where HAS_BIAS.
// A workgroup computes LANES rows n for up to TILE_ROWS rows of x; lane.y of SPLIT shares the columns: it takes every
// SPLIT-th unit of 32. Neighbouring lanes read neighbouring addresses of a panel. With lib/input-shared.wgsl goes
// SPLIT = 1 only, where all invocations want the same activations. Rows n outside of the piece and rows of x past the end of a
// tile are clamped to the last one, and neither is stored.
// Workgroup memory: SPLIT * LANES vec4f, 2,048 bytes.
//
// Order of summation: unit by unit (unit, unit + SPLIT, ...), within a unit by column, four interleaved partial sums;
// then those of the lanes in order. It depends on columns and SPLIT alone, never on the number of rows.

override LANES: u32 = 16;
override SPLIT: u32 = 8;
override TILE_ROWS: u32 = 4; // 4 or 1
override HAS_BIAS: bool = false;
override ACCUMULATE: bool = false; // y += the product
override LIMIT: f32; // the largest finite number of out_t: y saturates there

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

var<workgroup> partial: array<vec4f, SPLIT * LANES>;

fn dotUnit(w: Unit, x: Unit, sum: vec4f) -> vec4f {
  let low = fma(w.w3, x.w3, fma(w.w2, x.w2, fma(w.w1, x.w1, fma(w.w0, x.w0, sum))));
  return fma(w.w7, x.w7, fma(w.w6, x.w6, fma(w.w5, x.w5, fma(w.w4, x.w4, low))));
}

fn total(s: vec4f) -> f32 {
  return (s.x + s.y) + (s.z + s.w);
}

fn store(tile: Tile, entry: u32, n: u32, sum: f32) {
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

@compute @workgroup_size(LANES, SPLIT)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let tile = tileOf(group.y, TILE_ROWS, group.x * LANES, LANES);
  if (tile.first >= tile.end) {
    return;
  }
  let n = tile.start + group.x * LANES + lane.x;
  let stored = min(n, op.pieceRows - 1u);
  let split = select(lane.y, 0u, SPLIT == 1u);
  let seat = inputSeat();
  let first = tile.first;
  let last = tile.end - 1u;
  var s0 = vec4f();
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  for (var round = 0u; round < op.units; round += SPLIT) {
    let unit = min(round + split, op.units - 1u);
    let mine = SPLIT == 1u || round + split < op.units;
    let w = decodeUnit(stored, unit, op.tiles);
    let x0 = loadUnit(inputRow(first), unit, op.columns, seat);
    if (mine) {
      s0 = dotUnit(w, x0, s0);
    }
    if (TILE_ROWS == 1u || first == last) {
      continue;
    }
    let x1 = loadUnit(inputRow(min(first + 1u, last)), unit, op.columns, seat);
    let x2 = loadUnit(inputRow(min(first + 2u, last)), unit, op.columns, seat);
    let x3 = loadUnit(inputRow(min(first + 3u, last)), unit, op.columns, seat);
    if (mine) {
      s1 = dotUnit(w, x1, s1);
      s2 = dotUnit(w, x2, s2);
      s3 = dotUnit(w, x3, s3);
    }
  }
  var sums = vec4f(total(s0), total(s1), total(s2), total(s3));
  if (SPLIT > 1u) {
    partial[split * LANES + lane.x] = sums;
    workgroupBarrier();
    sums = partial[lane.x];
    for (var other = 1u; other < SPLIT; other++) {
      sums += partial[other * LANES + lane.x];
    }
  }
  if (split != 0u || !isComputed(tile, n)) {
    return;
  }
  store(tile, first, n, sums.x);
  if (TILE_ROWS == 1u) {
    return;
  }
  if (first + 1u <= last) {
    store(tile, first + 1u, n, sums.y);
  }
  if (first + 2u <= last) {
    store(tile, first + 2u, n, sums.z);
  }
  if (first + 3u <= last) {
    store(tile, first + 3u, n, sums.w);
  }
}
