// Paged attention of a decode step, first half: one row a sequence, its keys cut into runs of SPLIT_TOKENS. A workgroup
// computes the partial softmax of one run for up to four query heads (LANES) that share a kv head; attention-merge joins the runs.
//
// qkv, keys and values as in attention-prefill; with lib/blocks-packed, keys and values are those of the row's own block alone, in
// the tail that rowWrite names, and all before them are packed. partials f32x4 [sequence][HEADS][maxSplits][1 + VALUE4]: first
// (maximum, sum of weights, 0, 0), then the weighed sum of the values, not yet divided.
// Needs lib/step, lib/bounded, one of the lib/blocks files and one of the lib/reduce files (WG). Grid: x = maxContext / SPLIT_TOKENS rounded up,
// y = KV_HEADS * ceil(HEADS/KV_HEADS / LANES), z = sequences (row r is sequence r).
//
// Runs stand at multiples of SPLIT_TOKENS, whatever the other rows are: a row's result depends on its own context alone.
// Runs past the row's position or wholly before its window write nothing, and the merge does not read them.
// BLOCK_TOKENS divides SPLIT_TOKENS. Only places of positions up to the row's own are read.
// Workgroup memory: 16 * (SPLIT_TOKENS + LANES * (HEAD4 + WG)) bytes and that of reduceMax4 and reduceSum4.
// Float order: q.k over the entries in fours in rising order; values in PARTS = WG/VALUE4 interleaved runs (of packed and of
// exact keys), each in rising order, then the parts in rising order; weights by reduceSum4.

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

// A workgroup's row, where the block table of its sequence is, and the KV head.
struct Run {
  row: u32,
  table: u32,
  kvHead: u32,
}

fn slotOf(run: Run, position: u32) -> u32 { return tableWord(run.table + position / BLOCK_TOKENS); }

// Where the exact key of this position starts.
fn place(run: Run, position: u32) -> u32 {
  var block = 0u;
  if (PACKED) { block = rowWrite(run.row) / BLOCK_TOKENS; } else { block = slotOf(run, position); }
  return ((block * KV_HEADS + run.kvHead) * BLOCK_TOKENS + position % BLOCK_TOKENS) * HEAD4;
}

// What four entries of a key add to its products with the queries of all lanes.
fn products(c: u32, key: vec4f) -> vec4f {
  var sums = vec4f();
  sums.x = dot(query[c], key);
  if (LANES > 1u) { sums.y = dot(query[HEAD4 + c], key); }
  if (LANES > 2u) { sums.z = dot(query[2u * HEAD4 + c], key); }
  if (LANES > 3u) { sums.w = dot(query[3u * HEAD4 + c], key); }
  return sums;
}

fn dotsOf(at: u32) -> vec4f {
  var dots = vec4f();
  for (var c = 0u; c < op.head4; c++) { dots += products(c, vec4f(keys[at + c])); }
  return dots;
}

// Of four keys: [key][lane].
fn packedDots(keysAt: PackedKeys) -> mat4x4f {
  var dots = mat4x4f();
  for (var c = 0u; c < op.head4; c++) {
    let four = fourPackedKeys(keysAt, c);
    dots += mat4x4f(products(c, four[0]), products(c, four[1]), products(c, four[2]), products(c, four[3]));
  }
  return dots;
}

// The scaled and capped scores of one key for all lanes.
fn scoresOf(dots: vec4f) -> vec4f {
  let scores = dots * op.scale;
  if (op.cap > 0.0) { return op.cap * tanh(bounded4(scores / op.cap, 15.0)); }
  return scores;
}

// Notes the scores of key j if it is in [begin, end).
fn noted(scores: vec4f, j: u32, begin: u32, end: u32) -> vec4f {
  if (j < begin || j >= end) { return vec4f(LOWEST); }
  weights[j - begin] = scores;
  return scores;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let position = rowPosition(wid.z);
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
  let run = Run(wid.z, rowSequence(wid.z) * step.tableStride, kvHead);
  // Keys before this position are packed, the others exact.
  var exact = begin;
  if (PACKED) { exact = min(max(position - position % BLOCK_TOKENS, begin), end); }

  for (var i = lid; i < LANES * HEAD4; i += WG) {
    let source = wid.z * ROW4 + firstHead * HEAD4 + i;
    if (i < lanes * HEAD4) { query[i] = vec4f(qkv[source]); } else { query[i] = vec4f(); }
  }
  workgroupBarrier();

  var maximum = vec4f(LOWEST);
  if (PACKED) {
    for (var j = begin - begin % 4u + 4u * lid; j < exact; j += 4u * WG) {
      let dots = packedDots(packedKeys(slotOf(run, j), kvHead, j % BLOCK_TOKENS));
      let scores = mat4x4f(scoresOf(dots[0]), scoresOf(dots[1]), scoresOf(dots[2]), scoresOf(dots[3]));
      maximum = max(maximum, noted(scores[0], j, begin, exact));
      maximum = max(maximum, noted(scores[1], j + 1u, begin, exact));
      maximum = max(maximum, noted(scores[2], j + 2u, begin, exact));
      maximum = max(maximum, noted(scores[3], j + 3u, begin, exact));
    }
  }
  for (var j = exact + lid; j < end; j += WG) {
    let scores = scoresOf(dotsOf(place(run, j)));
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
    if (PACKED) {
      for (var j = begin + part; j < exact; j += parts) {
        let value = packedValue(slotOf(run, j), kvHead, j % BLOCK_TOKENS, column);
        let weight = weights[j - begin];
        sum0 += weight.x * value;
        if (LANES > 1u) { sum1 += weight.y * value; }
        if (LANES > 2u) { sum2 += weight.z * value; }
        if (LANES > 3u) { sum3 += weight.w * value; }
      }
    }
    for (var j = exact + part; j < end; j += parts) {
      let value = vec4f(values[place(run, j) + column]);
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
