// Residual add and RMS norm, fused: one workgroup a row.
//   delta'  = POST_NORM ? delta / rms(delta) * postWeight : delta
//   hidden += residualScale * delta'            (HAS_DELTA; written back unless GATHER)
//   out     = hidden / rms(hidden) * weight
// rms(x) = sqrt(mean(x^2) + eps).
//
// hidden f32 [rows, 4*D4], delta f32 likewise, postWeight and weight f32 [4*D4], out elem [rows, 4*D4].
// GATHER: out row i is made of row logitRow(i) of hidden and delta, and hidden stays as it was.
// Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = rows (of out).
// Workgroup memory: that of reduceSum.
// Each invocation reads back only what it wrote itself, so the write of hidden needs no barrier.
// Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then reduceSum.

override D4: u32;
override HAS_DELTA: bool = false;
override POST_NORM: bool = false;
override GATHER: bool = false;
override LIMIT: f32; // the largest finite number of elem

struct Op {
  eps: f32,
  residualScale: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read_write> hidden: array<vec4f>;
@group(0) @binding(2) var<storage, read> delta: array<vec4f>;
@group(0) @binding(3) var<storage, read> postWeight: array<vec4f>;
@group(0) @binding(4) var<storage, read> weight: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> normed: array<vec4<elem>>;

fn inverseRms(sumOfSquares: f32) -> f32 {
  return 1.0 / sqrt(sumOfSquares / f32(4u * D4) + op.eps);
}

// Four columns of hidden after the residual add.
fn added(row: u32, column: u32, deltaScale: f32) -> vec4f {
  let at = row * D4 + column;
  if (!HAS_DELTA) { return hidden[at]; }
  var change = delta[at] * deltaScale;
  if (POST_NORM) { change *= postWeight[column]; }
  return hidden[at] + op.residualScale * change;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  var row = wid.x;
  if (GATHER) { row = logitRow(wid.x); }

  var deltaScale = 1.0;
  if (HAS_DELTA && POST_NORM) {
    var squares = 0.0;
    for (var c = lid; c < D4; c += WG) {
      let value = delta[row * D4 + c];
      squares += dot(value, value);
    }
    deltaScale = inverseRms(reduceSum(squares, lid));
  }

  var squares = 0.0;
  for (var c = lid; c < D4; c += WG) {
    let value = added(row, c, deltaScale);
    if (HAS_DELTA && !GATHER) { hidden[row * D4 + c] = value; }
    squares += dot(value, value);
  }
  let scale = inverseRms(reduceSum(squares, lid));

  for (var c = lid; c < D4; c += WG) {
    var value: vec4f;
    if (GATHER) { value = added(row, c, deltaScale); } else { value = hidden[row * D4 + c]; }
    let scaled = bounded4(value * scale * weight[c], LIMIT);
    normed[wid.x * D4 + c] = vec4<elem>(scaled);
  }
}
