// Attention of a step's rows: online softmax over tiles of keys. Where keys lie and which of them a row sees is in
// lib/keys-cached (a prefill step of one sequence) and lib/keys-in-rows (whole texts of an encoder).
//   out[row, h] = sum_j p_j v_j,  p = softmax over the keys j that the row sees of cap(scale * q.k_j)
//
// qkv elem [rows, 4*ROW4], whose first HEADS * 4*HEAD4 entries are q; keys and values as the lib says; sinks f32 [HEADS]
// (SINKS); attn elem [rows, HEADS * 4*VALUE4]. A value is the first VALUE4 fours of its place: values may be the buffer of the
// keys.
// Needs lib/step, lib/bounded, one of the lib/blocks files and one of the lib/keys files. Grid: x = rows of the longest sequence * (HEADS/KV_HEADS) / 16
// rounded up, y = KV_HEADS, z = sequences.
//
// A workgroup owns 16 queries of one kv head, in runs of 4: query q is row q / group, head q % group of the group. For
// each tile of WG keys, an invocation
//   1. computes the scores of one run and 4 keys, in registers, and shares their maxima;
//   2. takes the maximum over the tile, turns its scores into weights and shares them;
//   3. adds weighed values to the four entries (a column) that it owns of the output of one to four runs.
// Two barriers a tile suffice: what step 1 writes is read in step 2 alone, and what step 2 writes in step 3 alone.
// With packed blocks the keys of blocks before a query's own come first, packed, then those of its own block, exact: each in
// tiles of its own. Tiles stand at multiples of WG of the sequence. Tiles that no query of the workgroup sees are skipped. Of places past the
// last key, up to three may be read and are masked whatever they hold.
// Workgroup memory: 16 * (5*WG + 4) bytes.
// Float order: q.k over the entries in fours in rising order; weights by key modulo WG, then those WG/4 fours in rising
// order; values in rising order of keys. It depends on a row's position alone, not on its place in the step.

override HEADS: u32;
override KV_HEADS: u32;
override HEAD4: u32;
override VALUE4: u32; // at most WG
override ROW4: u32;
override WG: u32; // a multiple of 4
override SINKS: bool = false;
override LIMIT: f32; // the largest finite number of elem
override CLASSES: u32 = min(4u, WG / VALUE4); // invocations that share a column
override RUNS: u32 = (3u + CLASSES) / CLASSES; // of an invocation in step 3: 1 to 4

override PARTS: u32 = WG / 4u; // groups of 4 keys in a tile

const QUERIES: u32 = 16u;
const LOWEST: f32 = -1e30; // stands for minus infinity: exp(LOWEST - x) is 0

struct Op {
  scale: f32,
  cap: f32, // 0: none
  window: u32, // of the lib; 0: none
  head4: u32, // HEAD4 again: a bound unknown to the compiler keeps software drivers from unrolling for minutes
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<kv_t>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<kv_t>>;
@group(0) @binding(4) var<storage, read> sinks: array<f32>;
@group(0) @binding(5) var<storage, read_write> attn: array<vec4<elem>>;

var<workgroup> maxima: array<vec4f, WG>; // [part][run], a component a query; at the end the sums of weights
var<workgroup> weights: array<vec4f, 4u * WG>; // [key][run]
var<workgroup> keeps: array<vec4f, 4>; // [run]: factor of the sums so far

// The query's place in the step; those past the end stand for the last one, and are not written.
struct Query {
  row: u32,
  head: u32,
}

// Query q of a workgroup. `rows`: the first row of its sequence, and how many there are.
fn queryAt(wid: vec3u, rows: vec2u, q: u32) -> Query {
  let group = HEADS / KV_HEADS;
  let pair = min(wid.x * QUERIES + q, rows.y * group - 1u);
  return Query(rows.x + pair / group, wid.y * group + pair % group);
}

fn startOf(query: Query) -> u32 {
  return query.row * ROW4 + query.head * HEAD4;
}

// Four entries of each of four queries.
fn queriesAt(query: vec4u, c: u32) -> mat4x4f {
  return mat4x4f(
    vec4f(qkv[query.x + c]),
    vec4f(qkv[query.y + c]),
    vec4f(qkv[query.z + c]),
    vec4f(qkv[query.w + c]),
  );
}

// The dot products of four keys (from `at` on) with four queries: [key][query].
fn dots(query: vec4u, at: u32) -> mat4x4f {
  var sums = mat4x4f();
  for (var c = 0u; c < op.head4; c++) {
    let queries = queriesAt(query, c);
    sums += mat4x4f(
      vec4f(keys[at + c]) * queries,
      vec4f(keys[at + KEY_STRIDE + c]) * queries,
      vec4f(keys[at + 2u * KEY_STRIDE + c]) * queries,
      vec4f(keys[at + 3u * KEY_STRIDE + c]) * queries,
    );
  }
  return sums;
}

fn packedDots(query: vec4u, keysAt: PackedKeys) -> mat4x4f {
  var sums = mat4x4f();
  for (var c = 0u; c < op.head4; c++) {
    let queries = queriesAt(query, c);
    let four = fourPackedKeys(keysAt, c);
    sums += mat4x4f(four[0] * queries, four[1] * queries, four[2] * queries, four[3] * queries);
  }
  return sums;
}

fn capped(scaled: vec4f) -> vec4f {
  if (op.cap > 0.0) { return op.cap * tanh(bounded4(scaled / op.cap, 15.0)); }
  return scaled;
}

// The first positions that four queries see, and those behind the last ones.
struct Seen {
  first: vec4u,
  end: vec4u,
}

fn visible(key: u32, seen: Seen) -> vec4<bool> {
  return (vec4u(key) >= seen.first) & (vec4u(key) < seen.end);
}

fn maskedScores(dots: vec4f, key: u32, seen: Seen) -> vec4f {
  return select(vec4f(LOWEST), capped(dots * op.scale), visible(key, seen));
}

fn weightsOf(scores: vec4f, maximum: vec4f, key: u32, seen: Seen) -> vec4f {
  return select(vec4f(), exp(scores - maximum), visible(key, seen));
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
fn writeRun(wid: vec3u, rows: vec2u, lid: u32, run: u32, column: u32, total: mat4x4f) {
  var sum = vec4f();
  for (var i = run; i < 4u * PARTS; i += 4u) { sum += maxima[i]; }
  weights[lid] = total[0] / sum.x;
  weights[WG + lid] = total[1] / sum.y;
  weights[2u * WG + lid] = total[2] / sum.z;
  weights[3u * WG + lid] = total[3] / sum.w;
  let present = rows.y * (HEADS / KV_HEADS) - wid.x * QUERIES;
  for (var q = run * 4u; q < min(run * 4u + 4u, present); q++) {
    let query = queryAt(wid, rows, q);
    let result = bounded4(weights[(q - run * 4u) * WG + lid], LIMIT);
    attn[(query.row * HEADS + query.head) * VALUE4 + column] = vec4<elem>(result);
  }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let rows = sequenceRows(wid.z);
  if (wid.x * QUERIES >= rows.y * (HEADS / KV_HEADS)) { return; } // the sequence is shorter than another
  let firstQuery = queryAt(wid, rows, 0u);
  let lastQuery = queryAt(wid, rows, QUERIES - 1u);
  let table = keyTable(firstQuery.row, lastQuery.row, rows.x);

  // Steps 1 and 2: this invocation's run and its place among the keys of a tile.
  let run = lid % 4u;
  let part = lid / 4u;
  let query0 = queryAt(wid, rows, run * 4u);
  let query1 = queryAt(wid, rows, run * 4u + 1u);
  let query2 = queryAt(wid, rows, run * 4u + 2u);
  let query3 = queryAt(wid, rows, run * 4u + 3u);
  let starts = vec4u(startOf(query0), startOf(query1), startOf(query2), startOf(query3));
  var maximum = vec4f(LOWEST);
  var sum = vec4f();
  if (SINKS) {
    maximum = vec4f(sinks[query0.head], sinks[query1.head], sinks[query2.head], sinks[query3.head]);
    sum = vec4f(select(0.0, 1.0, part == 0u));
  }

  // Step 3: this invocation's column and runs, every CLASSES-th. Idle ones (rank >= CLASSES) compute what they do not write.
  let column = lid % VALUE4;
  let rank = lid / VALUE4;
  let run0 = min(rank, 3u);
  let run1 = min(rank + CLASSES, 3u);
  let run2 = min(rank + 2u * CLASSES, 3u);
  let run3 = min(rank + 3u * CLASSES, 3u);
  var out0 = mat4x4f();
  var out1 = mat4x4f();
  var out2 = mat4x4f();
  var out3 = mat4x4f();

  // The packed keys, if there are some, then the exact ones. A step has rows: a bound unknown to the compiler, as head4.
  for (var share = select(1u, 0u, PACKED); share < 1u + min(step.rows, 1u); share++) {
    let isPacked = PACKED && share == 0u;
    let begin = seenBy(firstQuery.row, rows.y, isPacked).x; // of the keys that any query here sees
    let end = seenBy(lastQuery.row, rows.y, isPacked).y;
    let seen0 = seenBy(query0.row, rows.y, isPacked);
    let seen1 = seenBy(query1.row, rows.y, isPacked);
    let seen2 = seenBy(query2.row, rows.y, isPacked);
    let seen3 = seenBy(query3.row, rows.y, isPacked);
    let seen = Seen(vec4u(seen0.x, seen1.x, seen2.x, seen3.x), vec4u(seen0.y, seen1.y, seen2.y, seen3.y));
    for (var first = begin - begin % WG; first < end; first += WG) {
      let key = first + part * 4u;
      var scores = mat4x4f();
      if (key < end && isPacked) {
        scores = packedDots(starts, packedKeys(keySlot(table, key), wid.y, key % BLOCK_TOKENS));
      }
      if (key < end && !isPacked) { scores = dots(starts, keyPlace(table, wid.y, key)); }
      scores[0] = maskedScores(scores[0], key, seen);
      scores[1] = maskedScores(scores[1], key + 1u, seen);
      scores[2] = maskedScores(scores[2], key + 2u, seen);
      scores[3] = maskedScores(scores[3], key + 3u, seen);
      maxima[lid] = max(max(scores[0], scores[1]), max(scores[2], scores[3]));
      workgroupBarrier();

      let before = maximum;
      for (var i = run; i < 4u * PARTS; i += 4u) { maximum = max(maximum, maxima[i]); }
      let keep = exp(before - maximum);
      if (part == 0u) { keeps[run] = keep; }
      scores[0] = weightsOf(scores[0], maximum, key, seen);
      scores[1] = weightsOf(scores[1], maximum, key + 1u, seen);
      scores[2] = weightsOf(scores[2], maximum, key + 2u, seen);
      scores[3] = weightsOf(scores[3], maximum, key + 3u, seen);
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
      let count = min(WG, end - first);
      let skipped = max(begin, first) - first; // no query sees them
      if (isPacked) {
        for (var j = skipped; j < count; j++) {
          let slot = keySlot(table, first + j);
          let value = packedValue(slot, wid.y, (first + j) % BLOCK_TOKENS, column);
          out0 = weighed(out0, weights[j * 4u + run0], value);
          if (RUNS > 1u) { out1 = weighed(out1, weights[j * 4u + run1], value); }
          if (RUNS > 2u) { out2 = weighed(out2, weights[j * 4u + run2], value); }
          if (RUNS > 3u) { out3 = weighed(out3, weights[j * 4u + run3], value); }
        }
      } else {
        for (var j = skipped; j < count; j++) {
          let value = vec4f(values[valuePlace(table, wid.y, first + j) + column]);
          out0 = weighed(out0, weights[j * 4u + run0], value);
          if (RUNS > 1u) { out1 = weighed(out1, weights[j * 4u + run1], value); }
          if (RUNS > 2u) { out2 = weighed(out2, weights[j * 4u + run2], value); }
          if (RUNS > 3u) { out3 = weighed(out3, weights[j * 4u + run3], value); }
        }
      }
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
    writeRun(wid, rows, lid, last, column, total);
  }
}
