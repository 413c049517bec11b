// Matrix-vector product for a few rows at a time (decode):
//   y[row, outOffset + n] = scale * sum over k of W[n, k] * x[row, k]  (+ bias[n])
// for each row of the step (or of its logit rows) and each row n of one piece of W, dequantised on the way.
//
// Bindings: weights: a piece in panels of 16 rows (src/model/formats.ts); x: elem [rows, columns]; y: out_t
// [rows, outStride]; bias: f32 [rows of the whole matrix], read where HAS_BIAS.
// A workgroup computes LANES rows n for up to TILE_ROWS rows of x; lane.y of SPLIT shares the columns: it takes every
// SPLIT-th unit of 32. Neighbouring lanes read neighbouring addresses of a panel. Rows n past the end of the piece lie
// within its last panel (LANES divides 16), rows of x past the end are clamped to the last one, and neither is stored.
// Workgroup memory: 4 * SPLIT * LANES * 4 bytes.
//
// Order of summation: unit by unit (unit, unit + SPLIT, ...), within a unit by column, four interleaved partial sums;
// then those of the lanes in order. It depends on columns and SPLIT alone, never on the number of rows.

override LANES: u32 = 16;
override SPLIT: u32 = 8;
override HAS_BIAS: bool = false;
override LOGIT_ROWS: bool = false;

const TILE_ROWS = 4u;

struct Op {
  columns: u32,
  tiles: u32, // tiles in a row of weights
  units: u32, // units of 32 columns in a row of weights, the last one perhaps filled up with zeros
  firstRow: u32, // the piece's first row in the whole matrix
  pieceRows: u32,
  outStride: u32, // elements between rows of y
  outOffset: u32,
  scale: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> x: array<input_t>;
@group(0) @binding(3) var<storage, read_write> y: array<out_t>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<vec4f, SPLIT * LANES>;

fn dotUnit(w: Unit, row: u32, unit: u32, sum: vec4f) -> vec4f {
  let quad = unit * 8u;
  var s = fma(w.w0, loadInput(row, quad, op.columns), sum);
  s = fma(w.w1, loadInput(row, quad + 1u, op.columns), s);
  s = fma(w.w2, loadInput(row, quad + 2u, op.columns), s);
  s = fma(w.w3, loadInput(row, quad + 3u, op.columns), s);
  s = fma(w.w4, loadInput(row, quad + 4u, op.columns), s);
  s = fma(w.w5, loadInput(row, quad + 5u, op.columns), s);
  s = fma(w.w6, loadInput(row, quad + 6u, op.columns), s);
  return fma(w.w7, loadInput(row, quad + 7u, op.columns), s);
}

fn total(s: vec4f) -> f32 {
  return (s.x + s.y) + (s.z + s.w);
}

fn store(row: u32, n: u32, sum: f32) {
  var value = sum * op.scale;
  if (HAS_BIAS) {
    value += bias[op.firstRow + n];
  }
  y[row * op.outStride + op.outOffset + op.firstRow + n] = out_t(value);
}

@compute @workgroup_size(LANES, SPLIT)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let n = group.x * LANES + lane.x;
  let split = select(lane.y, 0u, SPLIT == 1u);
  let count = select(step.rows, step.logitRows, LOGIT_ROWS);
  let first = group.y * TILE_ROWS;
  let last = count - 1u;
  let r1 = min(first + 1u, last);
  let r2 = min(first + 2u, last);
  let r3 = min(first + 3u, last);
  var s0 = vec4f();
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  if (first == last) {
    for (var unit = split; unit < op.units; unit += SPLIT) {
      s0 = dotUnit(decodeUnit(n, unit, op.tiles), first, unit, s0);
    }
  } else {
    for (var unit = split; unit < op.units; unit += SPLIT) {
      let w = decodeUnit(n, unit, op.tiles);
      s0 = dotUnit(w, first, unit, s0);
      s1 = dotUnit(w, r1, unit, s1);
      s2 = dotUnit(w, r2, unit, s2);
      s3 = dotUnit(w, r3, unit, s3);
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
  if (split != 0u || n >= op.pieceRows) {
    return;
  }
  store(first, n, sums.x);
  if (first + 1u < count) {
    store(first + 1u, n, sums.y);
  }
  if (first + 2u < count) {
    store(first + 2u, n, sums.z);
  }
  if (first + 3u < count) {
    store(first + 3u, n, sums.w);
  }
}
