// AltUp before a layer: streams 1..3 take in what the gate of the layer before gives (HAS_GATE), and the router predicts all four:
//   X_s += given / rms(given) * gateWeight                                     s = 1..3
//   c = tanh(router (X_0 / rms(X_0) * norm / width)),  K = predict c,  P_a = X_a + sum_s K[4a + s] X_s
// GATHER instead: no prediction, and row i of P is row logitRow(i) of X.
//
// streams and predicted as lib/altup has them (predicted with OUT_STRIDE rows between streams), given f32 [rows, 4*D4].
// Needs lib/step, lib/reduce and lib/altup. Grid: x = rows (of predicted).

override HAS_GATE: bool;
override GATHER: bool = false;
override OUT_STRIDE: u32;

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read> router: array<vec4f>;
@group(0) @binding(2) var<storage, read> gateWeight: array<vec4f>;
@group(0) @binding(3) var<storage, read> given: array<vec4f>;
@group(0) @binding(4) var<storage, read> streams: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> predicted: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  var row = wid.x;
  if (GATHER) { row = logitRow(wid.x); }
  var squares = vec4f();
  for (var c = lid; c < D4; c += WG) {
    let x = streams[streamAt(0u, row, c)];
    squares.x += dot(x, x);
    if (HAS_GATE) { let g = given[row * D4 + c]; squares.y += dot(g, g); }
  }
  let sums = reduceSum4(squares, lid);
  let scale = inverseRms(sums.x, eps) / f32(4u * D4);
  let gateScale = inverseRms(sums.y, eps);

  var logits = vec4f();
  if (!GATHER) {
    for (var c = lid; c < D4; c += WG) {
      let x = streams[streamAt(0u, row, c)] * scale * router[c];
      logits += vec4f(
        dot(router[D4 + c], x),
        dot(router[2u * D4 + c], x),
        dot(router[3u * D4 + c], x),
        dot(router[4u * D4 + c], x),
      );
    }
    logits = reduceSum4(logits, lid);
  }
  let chosen = tanh4(logits);

  for (var c = lid; c < D4; c += WG) {
    var x = array<vec4f, 4>();
    for (var s = 0u; s < STREAMS; s++) {
      x[s] = streams[streamAt(s, row, c)];
      if (HAS_GATE && s > 0u) { x[s] += given[row * D4 + c] * gateScale * gateWeight[c]; }
    }
    for (var a = 0u; a < STREAMS; a++) {
      var value = x[a];
      if (!GATHER) {
        for (var s = 0u; s < STREAMS; s++) { value += dot(router[5u * D4 + 4u * a + s], chosen) * x[s]; }
      }
      predicted[(a * OUT_STRIDE + wid.x) * D4 + c] = value;
    }
  }
}
