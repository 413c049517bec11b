// Residual add and norms, fused: one workgroup a row.
//   sum    = hidden + residualScale * (POST == OF_OUTPUT ? norm(delta; postWeight) : delta)   (HAS_DELTA)
//   hidden = streamScale * (POST == OF_SUM ? norm(sum; postWeight) : sum)                     (written back unless GATHER)
//   out    = PRE ? norm(hidden; weight) : hidden
// RMS norm (the default): x / sqrt(mean(x^2) + eps) * w. LayerNorm (LAYER): (x - mean) / sqrt(variance + eps) * w + b.
//
// hidden f32 [rows, 4*D4], delta f32 likewise, out elem [rows, 4*D4]; postWeight and weight f32 [4*D4], with LAYER
// [2 * 4*D4]: w, then b.
// GATHER: out row i is made of row logitRow(i) of hidden and delta, and hidden stays as it was.
// Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = rows (of out).
// Workgroup memory: that of reduceSum.
// Each invocation reads back only what it wrote itself, so the write of hidden needs no barrier.
// Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then reduceSum.

override D4: u32;
override LAYER: bool = false;
override HAS_DELTA: bool = false;
override POST: u32 = 0u;
override PRE: bool = true;
override GATHER: bool = false;
override LIMIT: f32; // the largest finite number of elem

// Values of POST.
const OF_OUTPUT: u32 = 1u;
const OF_SUM: u32 = 2u;

// What a norm is of.
const DELTA: u32 = 0u;
const SUM: u32 = 1u;
const STREAM: u32 = 2u;

struct Op {
  eps: f32,
  residualScale: f32,
  streamScale: f32,
}

struct Norm {
  mean: f32, // 0 for an RMS norm
  scale: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read_write> hidden: array<vec4f>;
@group(0) @binding(2) var<storage, read> delta: array<vec4f>;
@group(0) @binding(3) var<storage, read> postWeight: array<vec4f>;
@group(0) @binding(4) var<storage, read> weight: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> normed: array<vec4<elem>>;

var<private> postNorm: Norm;

fn postNormed(x: vec4f, column: u32) -> vec4f {
  if (LAYER) { return (x - postNorm.mean) * postNorm.scale * postWeight[column] + postWeight[D4 + column]; }
  return x * postNorm.scale * postWeight[column];
}

// Four columns of hidden after the residual add.
fn added(row: u32, column: u32) -> vec4f {
  let at = row * D4 + column;
  if (!HAS_DELTA) { return hidden[at]; }
  var change = delta[at];
  if (POST == OF_OUTPUT) { change = postNormed(change, column); }
  return hidden[at] + op.residualScale * change;
}

fn streamed(row: u32, column: u32) -> vec4f {
  let sum = added(row, column);
  if (POST == OF_SUM) { return op.streamScale * postNormed(sum, column); }
  return op.streamScale * sum;
}

// The first look at what a norm is of, which writes the stream back.
fn first(what: u32, row: u32, column: u32) -> vec4f {
  if (what == DELTA) { return delta[row * D4 + column]; }
  if (what == SUM) { return added(row, column); }
  let value = streamed(row, column);
  if ((HAS_DELTA || POST == OF_SUM) && !GATHER) { hidden[row * D4 + column] = value; }
  return value;
}

// A later look.
fn again(what: u32, row: u32, column: u32) -> vec4f {
  if (what == DELTA) { return delta[row * D4 + column]; }
  if (what == SUM) { return added(row, column); }
  if (GATHER) { return streamed(row, column); }
  return hidden[row * D4 + column];
}

fn normOf(what: u32, row: u32, lid: u32) -> Norm {
  var part = 0.0;
  for (var c = lid; c < D4; c += WG) {
    let value = first(what, row, c);
    if (LAYER) { part += dot(value, vec4f(1.0)); } else { part += dot(value, value); }
  }
  let mean = reduceSum(part, lid) / f32(4u * D4);
  if (!LAYER) { return Norm(0.0, 1.0 / sqrt(mean + op.eps)); }
  var squares = 0.0;
  for (var c = lid; c < D4; c += WG) {
    let value = again(what, row, c) - mean;
    squares += dot(value, value);
  }
  return Norm(mean, 1.0 / sqrt(reduceSum(squares, lid) / f32(4u * D4) + op.eps));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  var row = wid.x;
  if (GATHER) { row = logitRow(wid.x); }

  if (HAS_DELTA && POST == OF_OUTPUT) { postNorm = normOf(DELTA, row, lid); }
  if (POST == OF_SUM) { postNorm = normOf(SUM, row, lid); }
  let norm = normOf(STREAM, row, lid);

  for (var c = lid; c < D4; c += WG) {
    var value = again(STREAM, row, c);
    if (PRE && LAYER) { value = (value - norm.mean) * norm.scale * weight[c] + weight[D4 + c]; }
    if (PRE && !LAYER) { value = value * norm.scale * weight[c]; }
    normed[wid.x * D4 + c] = vec4<elem>(bounded4(value, LIMIT));
  }
}
