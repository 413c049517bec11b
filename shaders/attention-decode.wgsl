// Paged attention of a decode step, first half: one row a sequence, its keys cut into runs of SPLIT_TOKENS. A workgroup
// computes the partial softmax of one run for up to four query heads (LANES) that share a kv head; attention-merge joins the runs.
//
// qkv, keys and values as in attention-prefill. partials f32x4 [sequence][HEADS][maxSplits][1 + VALUE4]: first
// (maximum, sum of weights, 0, 0), then the weighed sum of the values, not yet divided.
// Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = maxContext / SPLIT_TOKENS rounded up,
// y = KV_HEADS * ceil(HEADS/KV_HEADS / LANES), z = sequences (row r is sequence r).
//
// Runs stand at multiples of SPLIT_TOKENS, whatever the other rows are: a row's result depends on its own context alone.
// Runs past the row's position or wholly before its window write nothing, and the merge does not read them.
// BLOCK_TOKENS divides SPLIT_TOKENS. Only places of positions up to the row's own are read.
// Workgroup memory: 16 * (SPLIT_TOKENS + LANES * (HEAD4 + WG)) bytes and that of reduceMax4 and reduceSum4.
// Float order: q.k over the entries in fours in rising order; values in PARTS = WG/VALUE4 interleaved runs, each in rising
// order, then the parts in rising order; weights by reduceSum4.

override HEADS: u32;
override KV_HEADS: u32;
override HEAD4: u32;
override VALUE4: u32; // at most WG
override ROW4: u32;
override BLOCK_TOKENS: u32;
override SPLIT_TOKENS: u32;
override LANES: u32; // query heads of a workgroup, at most 4

const LOWEST: f32 = -1e30; // stands for minus infinity: exp(LOWEST - x) is 0

struct Op {
  scale: f32,
  cap: f32, // 0: none
  window: u32, // 0: none
  head4: u32, // HEAD4 again: a bound unknown to the compiler keeps software drivers from unrolling for minutes
  maxSplits: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<kv_t>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<kv_t>>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4f>;

var<workgroup> query: array<vec4f, LANES * HEAD4>; // [lane][HEAD4], zero for lanes without a head
var<workgroup> weights: array<vec4f, SPLIT_TOKENS>; // of each key, a component a lane
var<workgroup> sums: array<vec4f, LANES * WG>; // [lane][WG]

// Where the key of this position of the row's sequence starts.
fn place(table: u32, kvHead: u32, position: u32) -> u32 {
  let slot = tableWord(table + position / BLOCK_TOKENS);
  return ((slot * KV_HEADS + kvHead) * BLOCK_TOKENS + position % BLOCK_TOKENS) * HEAD4;
}

// The scaled and capped scores of one key for all lanes.
fn scoresOf(at: u32) -> vec4f {
  var dots = vec4f();
  for (var c = 0u; c < op.head4; c++) {
    let key = vec4f(keys[at + c]);
    dots.x += dot(query[c], key);
    if (LANES > 1u) { dots.y += dot(query[HEAD4 + c], key); }
    if (LANES > 2u) { dots.z += dot(query[2u * HEAD4 + c], key); }
    if (LANES > 3u) { dots.w += dot(query[3u * HEAD4 + c], key); }
  }
  let scores = dots * op.scale;
  if (op.cap > 0.0) { return op.cap * tanh(bounded4(scores / op.cap, 15.0)); }
  return scores;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let position = rowPosition(wid.z);
  let table = rowSequence(wid.z) * step.tableStride;
  var begin = 0u;
  if (op.window > 0u) { begin = max(position + 1u, op.window) - op.window; }
  begin = max(begin, wid.x * SPLIT_TOKENS);
  let end = min(position + 1u, (wid.x + 1u) * SPLIT_TOKENS);
  if (begin >= end) { return; }

  let group = HEADS / KV_HEADS;
  let shares = (group + LANES - 1u) / LANES;
  let kvHead = wid.y / shares;
  let firstHead = kvHead * group + wid.y % shares * LANES;
  let lanes = min(LANES, (kvHead + 1u) * group - firstHead);

  for (var i = lid; i < LANES * HEAD4; i += WG) {
    let source = wid.z * ROW4 + firstHead * HEAD4 + i;
    if (i < lanes * HEAD4) { query[i] = vec4f(qkv[source]); } else { query[i] = vec4f(); }
  }
  workgroupBarrier();

  var maximum = vec4f(LOWEST);
  for (var j = begin + lid; j < end; j += WG) {
    let scores = scoresOf(place(table, kvHead, j));
    weights[j - begin] = scores;
    maximum = max(maximum, scores);
  }
  maximum = reduceMax4(maximum, lid);

  var total = vec4f();
  for (var j = begin + lid; j < end; j += WG) {
    let weight = exp(weights[j - begin] - maximum);
    weights[j - begin] = weight;
    total += weight;
  }
  total = reduceSum4(total, lid); // its barriers also publish the weights

  let parts = WG / VALUE4;
  let column = lid % VALUE4;
  let part = lid / VALUE4;
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  if (part < parts) {
    for (var j = begin + part; j < end; j += parts) {
      let value = vec4f(values[place(table, kvHead, j) + column]);
      let weight = weights[j - begin];
      sum0 += weight.x * value;
      if (LANES > 1u) { sum1 += weight.y * value; }
      if (LANES > 2u) { sum2 += weight.z * value; }
      if (LANES > 3u) { sum3 += weight.w * value; }
    }
  }
  sums[lid] = sum0;
  if (LANES > 1u) { sums[WG + lid] = sum1; }
  if (LANES > 2u) { sums[2u * WG + lid] = sum2; }
  if (LANES > 3u) { sums[3u * WG + lid] = sum3; }
  workgroupBarrier();

  for (var i = lid; i < lanes * VALUE4; i += WG) {
    let lane = i / VALUE4;
    let to = ((wid.z * HEADS + firstHead + lane) * op.maxSplits + wid.x) * (1u + VALUE4);
    var sum = vec4f();
    for (var p = 0u; p < parts; p++) { sum += sums[lane * WG + p * VALUE4 + i % VALUE4]; }
    partials[to + 1u + i % VALUE4] = sum;
    if (i % VALUE4 == 0u) { partials[to] = vec4f(maximum[lane], total[lane], 0.0, 0.0); }
  }
}
