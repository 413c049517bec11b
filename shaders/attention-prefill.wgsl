// Paged attention of a prefill step: rows of one sequence at consecutive positions, online softmax over tiles of keys.
//   out[row, h] = sum_j p_j v_j,  p = softmax over j <= position (and position - j < window) of cap(scale * q.k_j)
//
// qkv elem [rows, (HEADS + 2*KV_HEADS) * 4*HEAD4] (only q is read); keys and values kv_t
// [slot][KV_HEADS][BLOCK_TOKENS][4*HEAD4], holding every position up to the last row's; sinks f32 [HEADS] (SINKS);
// attn elem [rows, HEADS * 4*HEAD4].
// Needs lib/step and lib/bounded. Grid: x = rows * (HEADS/KV_HEADS) / 16 rounded up, y = KV_HEADS. 64 invocations a workgroup.
//
// A workgroup owns 16 queries of one kv head, in runs of 4: query q is row q / group, head q % group of the group. For
// each tile of 64 keys, an invocation
//   1. computes the scores of one run and 4 keys, in registers, and shares their maxima;
//   2. takes the maximum over the tile, turns its scores into weights and shares them;
//   3. adds weighed values to the four entries (a column) that it owns of the output of one to four runs.
// Two barriers a tile suffice: what step 1 writes is read in step 2 alone, and what step 2 writes in step 3 alone.
// Tiles stand at multiples of 64, so that 4 keys lie in one block. Tiles that no query of the workgroup sees are skipped.
// Of places past the last row's position, keys of the same block may be read and are masked whatever they hold.
// Workgroup memory: 5.2 KiB.
// Float order: q.k over the entries in fours in rising order; weights by key modulo 64, then those 16 fours in rising
// order; values in rising order of keys. It depends on a row's position alone, not on its place in the step.

override HEADS: u32;
override KV_HEADS: u32;
override HEAD4: u32; // at most 64
override BLOCK_TOKENS: u32;
override SINKS: bool = false;
override LIMIT: f32; // the largest finite number of elem
override CLASSES: u32 = min(4u, 64u / HEAD4); // invocations that share a column
override RUNS: u32 = (3u + CLASSES) / CLASSES; // of an invocation in step 3: 1 to 4

const WG: u32 = 64u;
const TILE: u32 = 64u;
const QUERIES: u32 = 16u;
const PARTS: u32 = 16u; // groups of 4 keys in a tile
const LOWEST: f32 = -1e30; // stands for minus infinity: exp(LOWEST - x) is 0

struct Op {
  scale: f32,
  cap: f32, // 0: none
  window: u32, // 0: none
  head4: u32, // HEAD4 again: a bound unknown to the compiler keeps software drivers from unrolling for minutes
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<kv_t>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<kv_t>>;
@group(0) @binding(4) var<storage, read> sinks: array<f32>;
@group(0) @binding(5) var<storage, read_write> attn: array<vec4<elem>>;

var<workgroup> maxima: array<vec4f, 64>; // [part][run], a component a query; at the end the sums of weights
var<workgroup> weights: array<vec4f, 256>; // [key][run]
var<workgroup> keeps: array<vec4f, 4>; // [run]: factor of the sums so far

// The query's place in the step; those past the end stand for the last one, and are not written.
struct Query {
  row: u32,
  head: u32,
}

fn queryAt(wid: vec3u, q: u32) -> Query {
  let group = HEADS / KV_HEADS;
  let pair = min(wid.x * QUERIES + q, step.rows * group - 1u);
  return Query(pair / group, wid.y * group + pair % group);
}

// Where a query starts, its position and its head.
fn querySource(wid: vec3u, q: u32) -> vec3u {
  let query = queryAt(wid, q);
  let start = (query.row * (HEADS + 2u * KV_HEADS) + query.head) * HEAD4;
  return vec3u(start, rowPosition(query.row), query.head);
}

// Where the key or value of this position starts.
fn place(table: u32, kvHead: u32, position: u32) -> u32 {
  let slot = tableWord(table + position / BLOCK_TOKENS);
  return ((slot * KV_HEADS + kvHead) * BLOCK_TOKENS + position % BLOCK_TOKENS) * HEAD4;
}

// The dot products of four keys (from `at` on) with four queries: [key][query].
fn dots(query: vec4u, at: u32) -> mat4x4f {
  var sums = mat4x4f();
  for (var c = 0u; c < op.head4; c++) {
    let queries = mat4x4f(
      vec4f(qkv[query.x + c]),
      vec4f(qkv[query.y + c]),
      vec4f(qkv[query.z + c]),
      vec4f(qkv[query.w + c]),
    );
    sums += mat4x4f(
      vec4f(keys[at + c]) * queries,
      vec4f(keys[at + HEAD4 + c]) * queries,
      vec4f(keys[at + 2u * HEAD4 + c]) * queries,
      vec4f(keys[at + 3u * HEAD4 + c]) * queries,
    );
  }
  return sums;
}

fn capped(scaled: vec4f) -> vec4f {
  if (op.cap > 0.0) { return op.cap * tanh(bounded4(scaled / op.cap, 15.0)); }
  return scaled;
}

fn visible(key: u32, position: vec4u) -> vec4<bool> {
  let within = vec4<bool>(op.window == 0u) | (position - vec4u(key) < vec4u(op.window));
  return (vec4u(key) <= position) & within;
}

fn maskedScores(dots: vec4f, key: u32, position: vec4u) -> vec4f {
  return select(vec4f(LOWEST), capped(dots * op.scale), visible(key, position));
}

fn weightsOf(scores: vec4f, maximum: vec4f, key: u32, position: vec4u) -> vec4f {
  return select(vec4f(), exp(scores - maximum), visible(key, position));
}

// The sums of four queries plus their weights of a key times its value.
fn weighed(total: mat4x4f, weight: vec4f, value: vec4f) -> mat4x4f {
  return mat4x4f(
    total[0] + weight.x * value,
    total[1] + weight.y * value,
    total[2] + weight.z * value,
    total[3] + weight.w * value,
  );
}

fn kept(total: mat4x4f, run: u32) -> mat4x4f {
  let keep = keeps[run];
  return mat4x4f(total[0] * keep.x, total[1] * keep.y, total[2] * keep.z, total[3] * keep.w);
}

// Divides the sums of a run's four queries by their weights and writes them, but for queries past the step's end. They
// pass through workgroup memory (each invocation reads its own), because registers cannot be indexed.
fn writeRun(wid: vec3u, lid: u32, run: u32, column: u32, total: mat4x4f) {
  var sum = vec4f();
  for (var i = run; i < 4u * PARTS; i += 4u) { sum += maxima[i]; }
  weights[lid] = total[0] / sum.x;
  weights[WG + lid] = total[1] / sum.y;
  weights[2u * WG + lid] = total[2] / sum.z;
  weights[3u * WG + lid] = total[3] / sum.w;
  let present = step.rows * (HEADS / KV_HEADS) - wid.x * QUERIES;
  for (var q = run * 4u; q < min(run * 4u + 4u, present); q++) {
    let query = queryAt(wid, q);
    let result = bounded4(weights[(q - run * 4u) * WG + lid], LIMIT);
    attn[(query.row * HEADS + query.head) * HEAD4 + column] = vec4<elem>(result);
  }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let firstRow = queryAt(wid, 0u).row;
  let lastRow = queryAt(wid, QUERIES - 1u).row;
  let table = rowSequence(firstRow) * step.tableStride;
  let end = rowPosition(lastRow) + 1u; // of the keys that any query here sees
  var begin = 0u;
  if (op.window > 0u) { begin = max(rowPosition(firstRow) + 1u, op.window) - op.window; }

  // Steps 1 and 2: this invocation's run and its place among the keys of a tile.
  let run = lid % 4u;
  let part = lid / 4u;
  let query0 = querySource(wid, run * 4u);
  let query1 = querySource(wid, run * 4u + 1u);
  let query2 = querySource(wid, run * 4u + 2u);
  let query3 = querySource(wid, run * 4u + 3u);
  let starts = vec4u(query0.x, query1.x, query2.x, query3.x);
  let position = vec4u(query0.y, query1.y, query2.y, query3.y);
  var maximum = vec4f(LOWEST);
  var sum = vec4f();
  if (SINKS) {
    maximum = vec4f(sinks[query0.z], sinks[query1.z], sinks[query2.z], sinks[query3.z]);
    sum = vec4f(select(0.0, 1.0, part == 0u));
  }

  // Step 3: this invocation's column and runs, every CLASSES-th. Idle ones (rank >= CLASSES) compute what they do not write.
  let column = lid % HEAD4;
  let rank = lid / HEAD4;
  let run0 = min(rank, 3u);
  let run1 = min(rank + CLASSES, 3u);
  let run2 = min(rank + 2u * CLASSES, 3u);
  let run3 = min(rank + 3u * CLASSES, 3u);
  var out0 = mat4x4f();
  var out1 = mat4x4f();
  var out2 = mat4x4f();
  var out3 = mat4x4f();

  for (var first = begin - begin % TILE; first < end; first += TILE) {
    let key = first + part * 4u;
    var scores = mat4x4f();
    if (key < end) { scores = dots(starts, place(table, wid.y, key)); }
    scores[0] = maskedScores(scores[0], key, position);
    scores[1] = maskedScores(scores[1], key + 1u, position);
    scores[2] = maskedScores(scores[2], key + 2u, position);
    scores[3] = maskedScores(scores[3], key + 3u, position);
    maxima[lid] = max(max(scores[0], scores[1]), max(scores[2], scores[3]));
    workgroupBarrier();

    let before = maximum;
    for (var i = run; i < 4u * PARTS; i += 4u) { maximum = max(maximum, maxima[i]); }
    let keep = exp(before - maximum);
    if (part == 0u) { keeps[run] = keep; }
    scores[0] = weightsOf(scores[0], maximum, key, position);
    scores[1] = weightsOf(scores[1], maximum, key + 1u, position);
    scores[2] = weightsOf(scores[2], maximum, key + 2u, position);
    scores[3] = weightsOf(scores[3], maximum, key + 3u, position);
    weights[part * 16u + run] = scores[0];
    weights[part * 16u + 4u + run] = scores[1];
    weights[part * 16u + 8u + run] = scores[2];
    weights[part * 16u + 12u + run] = scores[3];
    sum = sum * keep + ((scores[0] + scores[1]) + (scores[2] + scores[3]));
    workgroupBarrier();

    out0 = kept(out0, run0);
    if (RUNS > 1u) { out1 = kept(out1, run1); }
    if (RUNS > 2u) { out2 = kept(out2, run2); }
    if (RUNS > 3u) { out3 = kept(out3, run3); }
    let count = min(TILE, end - first);
    for (var j = 0u; j < count; j++) {
      let value = vec4f(values[place(table, wid.y, first + j) + column]);
      out0 = weighed(out0, weights[j * 4u + run0], value);
      if (RUNS > 1u) { out1 = weighed(out1, weights[j * 4u + run1], value); }
      if (RUNS > 2u) { out2 = weighed(out2, weights[j * 4u + run2], value); }
      if (RUNS > 3u) { out3 = weighed(out3, weights[j * 4u + run3], value); }
    }
  }

  maxima[lid] = sum;
  workgroupBarrier();
  if (rank >= CLASSES) { return; }
  for (var last = rank; last < 4u; last += CLASSES) {
    var total = out0;
    if (RUNS > 1u && last == rank + CLASSES) { total = out1; }
    if (RUNS > 2u && last == rank + 2u * CLASSES) { total = out2; }
    if (RUNS > 3u && last == rank + 3u * CLASSES) { total = out3; }
    writeRun(wid, lid, last, column, total);
  }
}
