// AltUp behind a layer's feed-forward:
//   y = joined + fed / rms(fed) * postWeight,  c = tanh(router (y / rms(y) * norm / width))
//   X_s = P_s + (y - P_0) * (1 + (correct c)_s),  input = X_0 * inputScale
//
// predicted and streams as lib/altup has them; fed and input f32 [rows, 4*D4], input in the place of joined; weights f32
// [2][4*D4]: postWeight, inputScale. Needs lib/step, lib/reduce and lib/altup. Grid: x = rows.

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read> router: array<vec4f>;
@group(0) @binding(2) var<storage, read> weights: array<vec4f>;
@group(0) @binding(3) var<storage, read> predicted: array<vec4f>;
@group(0) @binding(4) var<storage, read> fed: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> joined: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> streams: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.x;
  var part = 0.0;
  for (var c = lid; c < D4; c += WG) {
    let value = fed[row * D4 + c];
    part += dot(value, value);
  }
  let fedScale = inverseRms(reduceSum(part, lid), eps);
  var squares = 0.0;
  var logits = vec4f();
  for (var c = lid; c < D4; c += WG) {
    let y = joined[row * D4 + c] + fed[row * D4 + c] * fedScale * weights[c];
    joined[row * D4 + c] = y;
    squares += dot(y, y);
    let x = y * router[c];
    logits += vec4f(
      dot(router[D4 + c], x),
      dot(router[2u * D4 + c], x),
      dot(router[3u * D4 + c], x),
      dot(router[4u * D4 + c], x),
    );
  }
  let scale = inverseRms(reduceSum(squares, lid), eps) / f32(4u * D4);
  let chosen = tanh4(reduceSum4(logits, lid) * scale);
  for (var c = lid; c < D4; c += WG) {
    let before = predicted[streamAt(0u, row, c)];
    let change = joined[row * D4 + c] - before;
    for (var s = 0u; s < STREAMS; s++) {
      let factor = 1.0 + dot(router[5u * D4 + 16u + s], chosen);
      let value = predicted[streamAt(s, row, c)] + change * factor;
      streams[streamAt(s, row, c)] = value;
      if (s == 0u) { joined[row * D4 + c] = value * weights[D4 + c]; }
    }
  }
}
