// RMS norm of all query heads as one vector, and of all key heads as another, in place on the qkv rows. One workgroup a
// vector and row.
//
// qkv elem [rows, (HEADS + 2*KV_HEADS) * 4*HEAD4]; qWeight f32 [HEADS * 4*HEAD4], kWeight f32 [KV_HEADS * 4*HEAD4].
// Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = 2 (q, then k), y = rows.
// Workgroup memory: that of reduceSum.
// Each invocation reads back only what it wrote itself, so that working in place needs no barrier.
// Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then reduceSum.

override HEADS: u32;
override KV_HEADS: u32;
override HEAD4: u32;
override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> qWeight: array<vec4f>;
@group(0) @binding(3) var<storage, read> kWeight: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let isQuery = wid.x == 0u;
  var first = wid.y * (HEADS + 2u * KV_HEADS) * HEAD4;
  var width = HEADS * HEAD4;
  if (!isQuery) {
    first += width;
    width = KV_HEADS * HEAD4;
  }

  var squares = 0.0;
  for (var c = lid; c < width; c += WG) {
    let value = vec4f(qkv[first + c]);
    squares += dot(value, value);
  }
  let scale = 1.0 / sqrt(reduceSum(squares, lid) / f32(4u * width) + eps);

  for (var c = lid; c < width; c += WG) {
    var weight: vec4f;
    if (isQuery) { weight = qWeight[c]; } else { weight = kWeight[c]; }
    qkv[first + c] = vec4<elem>(bounded4(vec4f(qkv[first + c]) * scale * weight, LIMIT));
  }
}
