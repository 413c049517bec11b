// Keeps the largest gates of a feed-forward, in place: gate = max(0, gate - (mean + factor * deviation)), the mean and the
// standard deviation (divided by n - 1) those of the row's gates.
//
// gateUp elem [rows, gate 4*FF4 | up 4*FF4]. Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = rows.
// Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then reduceSum; twice, because squares of
// numbers far from 0 would cancel.

override FF4: u32;
override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(0) var<uniform> factor: f32;
@group(0) @binding(1) var<storage, read_write> gateUp: array<vec4<elem>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let first = wid.x * 2u * FF4;
  let count = f32(4u * FF4);
  var part = 0.0;
  for (var c = lid; c < FF4; c += WG) { part += dot(vec4f(gateUp[first + c]), vec4f(1.0)); }
  let mean = reduceSum(part, lid) / count;
  var squares = 0.0;
  for (var c = lid; c < FF4; c += WG) {
    let away = vec4f(gateUp[first + c]) - mean;
    squares += dot(away, away);
  }
  let cutoff = mean + factor * sqrt(reduceSum(squares, lid) / (count - 1.0));
  for (var c = lid; c < FF4; c += WG) {
    let above = vec4f(gateUp[first + c]) - cutoff;
    // Not max, which may drop a NaN.
    gateUp[first + c] = vec4<elem>(bounded4(select(above, vec4f(), above < vec4f()), LIMIT));
  }
}
