// Per-layer embeddings (Gemma 3n, Gemma 4), in place: for each layer
//   inputs = (projected / rms(projected) * weight + inputs) / sqrt(2),   rms(x) = sqrt(mean(x^2) + eps).
//
// inputs f32 [rows, LAYERS * 4*P4], at first the table's rows; projected f32 likewise; weight f32 [4*P4].
// Needs lib/step and one of the lib/reduce files (WG). Grid: x = LAYERS, y = rows. Workgroup memory: that of reduceSum.
// Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then reduceSum.

override LAYERS: u32;
override P4: u32;

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read> projected: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> inputs: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let first = (wid.y * LAYERS + wid.x) * P4;
  var squares = 0.0;
  for (var c = lid; c < P4; c += WG) {
    let value = projected[first + c];
    squares += dot(value, value);
  }
  let scale = 1.0 / sqrt(reduceSum(squares, lid) / f32(4u * P4) + eps);
  for (var c = lid; c < P4; c += WG) {
    inputs[first + c] = (projected[first + c] * scale * weight[c] + inputs[first + c]) * 0.7071067811865476;
  }
}
