// AltUp behind a layer's attention, with LAuReL (Gemma 3n), and the norm before the feed-forward:
//   a = (P_0 + norm(mixed; w0) + x + norm(laurel; w1)) / sqrt(2),  x' = norm(a; w2),  norm(v; w) = v / rms(v) * w
//
// predicted as lib/altup has it; mixed, laurel and joined f32 [rows, 4*D4]; normed elem [rows, 4*D4]: x, and then x'; weights
// f32 [3][4*D4]. Needs lib/step, lib/bounded, lib/reduce and lib/altup. Grid: x = rows.

override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;
@group(0) @binding(2) var<storage, read> predicted: array<vec4f>;
@group(0) @binding(3) var<storage, read> mixed: array<vec4f>;
@group(0) @binding(4) var<storage, read> laurel: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> joined: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> normed: array<vec4<elem>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.x;
  var squares = vec4f();
  for (var c = lid; c < D4; c += WG) {
    let m = mixed[row * D4 + c];
    let l = laurel[row * D4 + c];
    squares += vec4f(dot(m, m), dot(l, l), 0.0, 0.0);
  }
  let sums = reduceSum4(squares, lid);
  let mixedScale = inverseRms(sums.x, eps);
  let laurelScale = inverseRms(sums.y, eps);
  var part = 0.0;
  for (var c = lid; c < D4; c += WG) {
    let at = row * D4 + c;
    let value = (predicted[streamAt(0u, row, c)] + mixed[at] * mixedScale * weights[c] + vec4f(normed[at])
      + laurel[at] * laurelScale * weights[D4 + c]) * 0.7071067811865476;
    joined[at] = value;
    part += dot(value, value);
  }
  let scale = inverseRms(reduceSum(part, lid), eps);
  for (var c = lid; c < D4; c += WG) {
    let at = row * D4 + c;
    normed[at] = vec4<elem>(bounded4(joined[at] * scale * weights[2u * D4 + c], LIMIT));
  }
}
