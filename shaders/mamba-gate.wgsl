// Mamba-2's last op: the skip connection, the gate, and the norm over each group.
//   g = (y + d[head] X) * silu(z);  out = NORM ? g / rms(g over its group) * weight : g
// rms(x) = sqrt(mean(x^2) + eps).
//
// mixed f32 [rows, mixedStride], its first inner columns z; convolved f32 [rows, convWidth], its first inner columns X;
// d f32 [heads]; weight f32 [inner]; y f32 [rows, inner], replaced by g; out elem [rows, inner], saturating.
// Needs lib/step, lib/bounded, lib/mamba, one of the lib/mamba-gate files and one of the lib/reduce files (WG).
// Grid: x = groups, y = rows. Workgroup memory: that of reduceSum.
// Each invocation reads back only what it wrote itself, so the write of g needs no barrier.
// Float order: each invocation sums its spans of columns lid, lid + WG, ... in rising order, then reduceSum.

override HEAD_SPANS: u32; // op.headDim / SPAN_COLUMNS, as a constant to divide by
override NORM: bool = true;
override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(1) var<storage, read> mixed: array<columns_t>;
@group(0) @binding(2) var<storage, read> convolved: array<columns_t>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<columns_t>;
@group(0) @binding(5) var<storage, read_write> y: array<columns_t>;
@group(0) @binding(6) var<storage, read_write> out: array<out_columns_t>;

fn silu(z: columns_t) -> columns_t {
  let e = exp(-abs(z));
  return z * select(e, columns_t(1.0), z >= columns_t(0.0)) / (1.0 + e);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.y;
  let spans = inner() / SPAN_COLUMNS;
  let width = spans / op.groups;
  let first = wid.x * width;
  let gates = row * op.mixedStride / SPAN_COLUMNS + first;
  let skips = row * op.convWidth / SPAN_COLUMNS + first;
  let start = row * spans + first;
  var squares = 0.0;
  for (var c = lid; c < width; c += WG) {
    let skip = d[(first + c) / HEAD_SPANS] * convolved[skips + c];
    let value = (y[start + c] + skip) * silu(mixed[gates + c]);
    y[start + c] = value;
    squares += sumOfSquares(value);
  }
  var scale = 1.0;
  if (NORM) { scale = 1.0 / sqrt(reduceSum(squares, lid) / f32(width * SPAN_COLUMNS) + op.eps); }
  for (var c = lid; c < width; c += WG) {
    var value = y[start + c] * scale;
    if (NORM) { value *= weight[first + c]; }
    out[start + c] = out_columns_t(boundedColumns(value, LIMIT));
  }
}
