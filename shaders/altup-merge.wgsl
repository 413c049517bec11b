// The streams of AltUp at the end, and the norm before the head:
//   h = (X_0 + sum_s unembedded_s * |X_0| / |unembedded_s|) / 4,  normed = h / rms(h) * weight
//
// streams as lib/altup has them, a row a logit row; unembedded f32 [logit rows, 3 * 4*D4]; normed elem [logit rows, 4*D4]; weight f32
// [4*D4]. Needs lib/step, lib/bounded, lib/reduce and lib/altup. Grid: x = logit rows.

override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> unembedded: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> streams: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> normed: array<vec4<elem>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.x;
  let first = row * 3u * D4;
  var squares = vec4f();
  for (var c = lid; c < D4; c += WG) {
    let x = streams[streamAt(0u, row, c)];
    let a = unembedded[first + c];
    let b = unembedded[first + D4 + c];
    let d = unembedded[first + 2u * D4 + c];
    squares += vec4f(dot(x, x), dot(a, a), dot(b, b), dot(d, d));
  }
  let sums = reduceSum4(squares, lid);
  let factors = sqrt(sums.x / sums);
  var part = 0.0;
  for (var c = lid; c < D4; c += WG) {
    let value = (streams[streamAt(0u, row, c)] + unembedded[first + c] * factors.y
      + unembedded[first + D4 + c] * factors.z + unembedded[first + 2u * D4 + c] * factors.w) * 0.25;
    streams[streamAt(0u, row, c)] = value;
    part += dot(value, value);
  }
  let scale = inverseRms(reduceSum(part, lid), eps);
  for (var c = lid; c < D4; c += WG) {
    normed[row * D4 + c] = vec4<elem>(bounded4(streams[streamAt(0u, row, c)] * scale * weight[c], LIMIT));
  }
}
