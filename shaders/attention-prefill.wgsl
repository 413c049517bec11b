// Paged attention of a prefill step: rows of one sequence at consecutive positions, online softmax over tiles of keys.
//   out[row, h] = sum_j p_j v_j,  p = softmax over j <= position (and position - j < window) of cap(scale * q.k_j)
//
// qkv elem [rows, (HEADS + 2*KV_HEADS) * 4*HEAD4] (only q is read); keys and values kv_t
// [slot][KV_HEADS][BLOCK_TOKENS][4*HEAD4], holding every position up to the last row's; sinks f32 [HEADS] (SINKS);
// attn elem [rows, HEADS * 4*HEAD4].
// Needs lib/step. Grid: x = rows * (HEADS/KV_HEADS) / WG rounded up, y = KV_HEADS, z = HEAD4 / SLICE4 rounded up.
//
// An invocation owns one query (row and head) and computes a slice of at most 128 entries of its output, its sums in
// registers. All invocations of a workgroup share the kv head and walk the same keys, so that each load of a key or a
// value is one address for the whole workgroup, and nothing is staged or shared: no barrier. Workgroup memory, 64 * WG
// bytes, holds each invocation's own weights, which registers could not be indexed for.
// A tile is 16 keys at a multiple of 16 and BLOCK_TOKENS is a multiple of 16, so that a tile lies in one block and
// needs one look-up in the block table. Tiles that no row of the workgroup sees are skipped. Of places past the last
// row's position the keys may be read, and are then masked whatever they hold; their values are not.
// Float order: q.k over the entries in fours in rising order; tiles in rising order, keys in rising order.

override WG: u32 = 64u;
override HEADS: u32;
override KV_HEADS: u32;
override HEAD4: u32;
override SLICE4: u32; // a multiple of 4, at most 32
override BLOCK_TOKENS: u32;
override SINKS: bool = false;
override LIMIT: f32; // the largest finite number of elem

const TILE: u32 = 16u;
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

var<workgroup> weights: array<f32, 16u * WG>; // [key of the tile][invocation], each read by its writer alone

// Scaled and capped scores of four keys; LOWEST for those that this position does not see.
fn visibleScores(dots: vec4f, first: u32, position: u32) -> vec4f {
  var scores = dots * op.scale;
  if (op.cap > 0.0) {
    scores = op.cap * tanh(clamp(scores / op.cap, vec4f(-15.0), vec4f(15.0)));
  }
  let key = vec4u(first) + vec4u(0u, 1u, 2u, 3u);
  var visible = key <= vec4u(position);
  if (op.window > 0u) { visible = visible & (vec4u(position) - key < vec4u(op.window)); }
  return select(vec4f(LOWEST), scores, visible);
}

// q . k of four keys that follow each other, over one column of four entries.
fn dots(query: vec4f, at: u32) -> vec4f {
  return vec4f(
    dot(query, vec4f(keys[at])),
    dot(query, vec4f(keys[at + HEAD4])),
    dot(query, vec4f(keys[at + 2u * HEAD4])),
    dot(query, vec4f(keys[at + 3u * HEAD4])),
  );
}

// Sixteen entries of the value that starts at `at`; entries past the head's end repeat its last four.
fn value16(at: u32, column: u32) -> mat4x4f {
  let last = HEAD4 - 1u;
  return mat4x4f(
    vec4f(values[at + min(column, last)]),
    vec4f(values[at + min(column + 1u, last)]),
    vec4f(values[at + min(column + 2u, last)]),
    vec4f(values[at + min(column + 3u, last)]),
  );
}

fn keepWeights(lid: u32, first: u32, four: vec4f) {
  weights[first * WG + lid] = four.x;
  weights[(first + 1u) * WG + lid] = four.y;
  weights[(first + 2u) * WG + lid] = four.z;
  weights[(first + 3u) * WG + lid] = four.w;
}

fn largest(v: vec4f) -> f32 {
  return max(max(v.x, v.y), max(v.z, v.w));
}

fn write4(at: u32, column: u32, value: vec4f) {
  if (column < HEAD4) { attn[at + column] = vec4<elem>(clamp(value, vec4f(-LIMIT), vec4f(LIMIT))); }
}

fn write16(at: u32, column: u32, value: mat4x4f) {
  write4(at, column, value[0]);
  write4(at, column + 1u, value[1]);
  write4(at, column + 2u, value[2]);
  write4(at, column + 3u, value[3]);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let group = HEADS / KV_HEADS;
  let pairs = step.rows * group;
  let firstRow = wid.x * WG / group;
  let lastRow = (min(wid.x * WG + WG, pairs) - 1u) / group;
  let pair = min(wid.x * WG + lid, pairs - 1u);
  let row = pair / group;
  let head = wid.y * group + pair % group;
  let position = rows[row].position;
  let query = (row * (HEADS + 2u * KV_HEADS) + head) * HEAD4;
  let table = rows[firstRow].sequence * step.tableStride;

  let end = rows[lastRow].position + 1u; // of the keys that any row here sees
  var begin = 0u;
  if (op.window > 0u) { begin = max(rows[firstRow].position + 1u, op.window) - op.window; }

  var maximum = LOWEST;
  var sum = 0.0;
  if (SINKS) {
    maximum = sinks[head];
    sum = 1.0;
  }
  let zero = mat4x4f();
  var out0 = zero;
  var out1 = zero;
  var out2 = zero;
  var out3 = zero;
  var out4 = zero;
  var out5 = zero;
  var out6 = zero;
  var out7 = zero;
  let column = wid.z * SLICE4;

  for (var first = begin - begin % TILE; first < end; first += TILE) {
    let slot = blockTable[table + first / BLOCK_TOKENS];
    let base = ((slot * KV_HEADS + wid.y) * BLOCK_TOKENS + first % BLOCK_TOKENS) * HEAD4;
    var scores0 = vec4f();
    var scores1 = vec4f();
    var scores2 = vec4f();
    var scores3 = vec4f();
    for (var c = 0u; c < op.head4; c++) {
      let q = vec4f(qkv[query + c]);
      scores0 += dots(q, base + c);
      scores1 += dots(q, base + 4u * HEAD4 + c);
      scores2 += dots(q, base + 8u * HEAD4 + c);
      scores3 += dots(q, base + 12u * HEAD4 + c);
    }
    scores0 = visibleScores(scores0, first, position);
    scores1 = visibleScores(scores1, first + 4u, position);
    scores2 = visibleScores(scores2, first + 8u, position);
    scores3 = visibleScores(scores3, first + 12u, position);

    let before = maximum;
    maximum = max(maximum, largest(max(max(scores0, scores1), max(scores2, scores3))));
    // A row that has seen no key yet has maximum == LOWEST: its weights must be 0, not exp(0).
    let seen = maximum > LOWEST;
    scores0 = select(vec4f(), exp(scores0 - maximum), seen);
    scores1 = select(vec4f(), exp(scores1 - maximum), seen);
    scores2 = select(vec4f(), exp(scores2 - maximum), seen);
    scores3 = select(vec4f(), exp(scores3 - maximum), seen);
    let keep = exp(before - maximum);
    sum = sum * keep + dot((scores0 + scores1) + (scores2 + scores3), vec4f(1.0));
    keepWeights(lid, 0u, scores0);
    keepWeights(lid, 4u, scores1);
    keepWeights(lid, 8u, scores2);
    keepWeights(lid, 12u, scores3);

    out0 *= keep;
    if (SLICE4 > 4u) { out1 *= keep; }
    if (SLICE4 > 8u) { out2 *= keep; }
    if (SLICE4 > 12u) { out3 *= keep; }
    if (SLICE4 > 16u) { out4 *= keep; }
    if (SLICE4 > 20u) { out5 *= keep; }
    if (SLICE4 > 24u) { out6 *= keep; }
    if (SLICE4 > 28u) { out7 *= keep; }
    let count = min(TILE, end - first);
    for (var j = 0u; j < count; j++) {
      let weight = weights[j * WG + lid];
      let at = base + j * HEAD4;
      out0 += weight * value16(at, column);
      if (SLICE4 > 4u) { out1 += weight * value16(at, column + 4u); }
      if (SLICE4 > 8u) { out2 += weight * value16(at, column + 8u); }
      if (SLICE4 > 12u) { out3 += weight * value16(at, column + 12u); }
      if (SLICE4 > 16u) { out4 += weight * value16(at, column + 16u); }
      if (SLICE4 > 20u) { out5 += weight * value16(at, column + 20u); }
      if (SLICE4 > 24u) { out6 += weight * value16(at, column + 24u); }
      if (SLICE4 > 28u) { out7 += weight * value16(at, column + 28u); }
    }
  }

  if (wid.x * WG + lid >= pairs) { return; }
  let to = (row * HEADS + head) * HEAD4;
  let scale = 1.0 / sum;
  write16(to, column, out0 * scale);
  if (SLICE4 > 4u) { write16(to, column + 4u, out1 * scale); }
  if (SLICE4 > 8u) { write16(to, column + 8u, out2 * scale); }
  if (SLICE4 > 12u) { write16(to, column + 12u, out3 * scale); }
  if (SLICE4 > 16u) { write16(to, column + 16u, out4 * scale); }
  if (SLICE4 > 20u) { write16(to, column + 20u, out5 * scale); }
  if (SLICE4 > 24u) { write16(to, column + 24u, out6 * scale); }
  if (SLICE4 > 28u) { write16(to, column + 28u, out7 * scale); }
}
