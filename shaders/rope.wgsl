// Per-head norm of q and k (NORM) and rotary embedding, in place on the qkv rows. One workgroup a head and row.
// The norm is an RMS norm with the same weights for all heads of q and for all of k, or (LAYER) a LayerNorm without bias,
// with weights for each head.
// NORM_LAST: the norm is of what has been rotated. TEMPERATURE: queries are then multiplied by
// 1 + temperature * ln(1 + floor(position / temperatureTokens)).
// Heads 0 .. HEADS-1 are q, HEADS .. HEADS+KV_HEADS-1 are k. The v heads behind them are normed without a weight (the grid
// reaches them), or stay as they are.
//
// qkv elem [rows, (HEADS + 2*KV_HEADS) * HEAD_DIM], qWeight and kWeight f32 [HEAD_DIM], with LAYER
// [HEADS * HEAD_DIM] and [KV_HEADS * HEAD_DIM].
// Rotation of the first ROT entries of a head (ROT even; 0: norm alone) by the RoPE table of step.wgsl behind op.before pairs:
// pairs (i, i + ROT/2), or (2i, 2i+1) with INTERLEAVED. The other entries pass through (normalised all the same).
// Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = HEADS, + KV_HEADS for k, + KV_HEADS for v; y = rows.
// Workgroup memory: that of reduceSum.
// Each pair of entries belongs to one invocation in both passes, so that working in place needs no barrier.
// Float order: each invocation sums its pairs (LAYER) and their squares in rising order, then reduceSum.

override HEADS: u32;
override KV_HEADS: u32;
override HEAD_DIM: u32;
override ROT: u32;
override INTERLEAVED: bool = false;
override NORM: bool = false;
override LAYER: bool = false;
override NORM_LAST: bool = false;
override TEMPERATURE: bool = false;
override LIMIT: f32; // the largest finite number of elem

struct Op {
  before: u32, // pairs of a row in the tables before this one
  eps: f32,
  temperature: f32,
  temperatureTokens: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read_write> qkv: array<elem>;
@group(0) @binding(2) var<storage, read> qWeight: array<f32>;
@group(0) @binding(3) var<storage, read> kWeight: array<f32>;

// The two entries of pair number `pair` of a head: rotated ones first, then what passes through, two at a time.
fn entries(pair: u32) -> vec2u {
  if (pair >= ROT / 2u || INTERLEAVED) { return vec2u(2u * pair, 2u * pair + 1u); }
  return vec2u(pair, pair + ROT / 2u);
}

fn loadPair(head: u32, at: vec2u) -> vec2f {
  return vec2f(f32(qkv[head + at.x]), f32(qkv[head + at.y]));
}

fn normWeight(head: u32, pair: vec2u) -> vec2f {
  if (head >= HEADS + KV_HEADS) { return vec2f(1.0); }
  let isQuery = head < HEADS;
  var at = pair;
  if (LAYER) { at += select(head - HEADS, head, isQuery) * HEAD_DIM; }
  if (isQuery) { return vec2f(qWeight[at.x], qWeight[at.y]); }
  return vec2f(kWeight[at.x], kWeight[at.y]);
}

// A pair, rotated if it is one of the first `turns`; angles: where the row's turns start.
fn turned(value: vec2f, pair: u32, angles: u32, turns: u32) -> vec2f {
  if (pair >= turns) { return value; }
  let turn = ropeTurn(angles + pair);
  return vec2f(value.x * turn.x - value.y * turn.y, value.x * turn.y + value.y * turn.x);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.y;
  let head = (row * (HEADS + 2u * KV_HEADS) + wid.x) * HEAD_DIM;

  let isValue = wid.x >= HEADS + KV_HEADS;
  let hasNorm = NORM || isValue;
  let angles = op.before * step.rows + row * (ROT / 2u);
  let turns = select(ROT / 2u, 0u, isValue);

  var mean = 0.0;
  var scale = 1.0;
  if (NORM && LAYER) {
    var sum = 0.0;
    for (var pair = lid; pair < HEAD_DIM / 2u; pair += WG) {
      sum += dot(loadPair(head, entries(pair)), vec2f(1.0));
    }
    mean = reduceSum(sum, lid) / f32(HEAD_DIM);
  }
  if (hasNorm) {
    var squares = 0.0;
    for (var pair = lid; pair < HEAD_DIM / 2u; pair += WG) {
      var value = loadPair(head, entries(pair));
      if (NORM_LAST) { value = turned(value, pair, angles, turns); }
      if (LAYER) { value -= mean; }
      squares += dot(value, value);
    }
    scale = 1.0 / sqrt(reduceSum(squares, lid) / f32(HEAD_DIM) + op.eps);
  }

  var stretch = 1.0;
  if (TEMPERATURE && wid.x < HEADS) {
    stretch += op.temperature * log(1.0 + f32(rowPosition(row) / op.temperatureTokens));
  }

  for (var pair = lid; pair < HEAD_DIM / 2u; pair += WG) {
    if (!hasNorm && !TEMPERATURE && pair >= turns) { break; }
    let at = entries(pair);
    var value = loadPair(head, at);
    if (NORM_LAST) { value = turned(value, pair, angles, turns); }
    if (LAYER) { value -= mean; }
    if (hasNorm) { value = value * scale * normWeight(wid.x, at); }
    if (!NORM_LAST) { value = turned(value, pair, angles, turns); }
    if (TEMPERATURE) { value *= stretch; }
    value = bounded2(value, LIMIT);
    qkv[head + at.x] = elem(value.x);
    qkv[head + at.y] = elem(value.y);
  }
}
