// Mamba-2's last op: the skip connection, the gate, and the norm over each group.
//   g = (y + d[head] X) * silu(z);  out = NORM ? g / rms(g over its group) * weight : g
// rms(x) = sqrt(mean(x^2) + eps).
//
// y f32 [rows, inner], replaced by g; convolved f32 [rows, convWidth], its first inner columns X; d f32 [heads]; mixed f32 [rows, mixedStride], its first inner columns z; weight f32 [inner]; out elem
// [rows, inner], saturating.
// Needs lib/step, lib/mamba and one of the lib/reduce files (WG). Grid: x = groups, y = rows.
// Workgroup memory: that of reduceSum.
// Each invocation reads back only what it wrote itself, so the write of g needs no barrier.
// Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then reduceSum.

override NORM: bool = true;
override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(1) var<storage, read> mixed: array<f32>;
@group(0) @binding(2) var<storage, read> convolved: array<f32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<elem>;

fn gated(row: u32, column: u32) -> f32 {
  let z = mixed[row * op.mixedStride + column];
  let e = exp(-abs(z));
  let skip = d[column / op.headDim] * convolved[row * op.convWidth + column];
  return (y[row * inner() + column] + skip) * (z * select(e, 1.0, z >= 0.0) / (1.0 + e));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.y;
  let width = inner() / op.groups;
  let first = wid.x * width;
  let start = row * inner() + first;
  var squares = 0.0;
  for (var c = lid; c < width; c += WG) {
    let value = gated(row, first + c);
    y[start + c] = value;
    squares += value * value;
  }
  var scale = 1.0;
  if (NORM) { scale = 1.0 / sqrt(reduceSum(squares, lid) / f32(width) + op.eps); }
  for (var c = lid; c < width; c += WG) {
    var value = y[start + c] * scale;
    if (NORM) { value *= weight[first + c]; }
    out[start + c] = elem(clamp(value, -LIMIT, LIMIT));
  }
}
