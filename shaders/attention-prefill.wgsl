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
// value is one address for the whole workgroup, and nothing is staged: no workgroup memory, no barrier.
// A tile is 16 keys at a multiple of 16 and BLOCK_TOKENS is a multiple of 16, so that a tile lies in one block and
// needs one look-up in the block table. Tiles that no row of the workgroup sees are skipped. Places past the last
// row's position are never read: their keys and values stand for the last one, with weight 0.
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
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<kv_t>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<kv_t>>;
@group(0) @binding(4) var<storage, read> sinks: array<f32>;
@group(0) @binding(5) var<storage, read_write> attn: array<vec4<elem>>;

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

// q . k of four keys over one column of four entries.
fn dots(query: vec4f, at: vec4u) -> vec4f {
  return vec4f(
    dot(query, vec4f(keys[at.x])),
    dot(query, vec4f(keys[at.y])),
    dot(query, vec4f(keys[at.z])),
    dot(query, vec4f(keys[at.w])),
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

fn weighed4(sum: mat4x4f, weight: vec4f, at: vec4u, column: u32) -> mat4x4f {
  return sum + weight.x * value16(at.x, column) + weight.y * value16(at.y, column) +
    weight.z * value16(at.z, column) + weight.w * value16(at.w, column);
}

// A tile's weights and where its values start.
struct Tile {
  keep: f32, // factor of the sums so far
  weights0: vec4f,
  weights1: vec4f,
  weights2: vec4f,
  weights3: vec4f,
  at0: vec4u,
  at1: vec4u,
  at2: vec4u,
  at3: vec4u,
}

fn weighed(sum: mat4x4f, tile: Tile, column: u32) -> mat4x4f {
  var total = weighed4(sum * tile.keep, tile.weights0, tile.at0, column);
  total = weighed4(total, tile.weights1, tile.at1, column);
  total = weighed4(total, tile.weights2, tile.at2, column);
  return weighed4(total, tile.weights3, tile.at3, column);
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
    let last = vec4u(end - 1u - first);
    var tile: Tile;
    tile.at0 = base + min(vec4u(0u, 1u, 2u, 3u), last) * HEAD4;
    tile.at1 = base + min(vec4u(4u, 5u, 6u, 7u), last) * HEAD4;
    tile.at2 = base + min(vec4u(8u, 9u, 10u, 11u), last) * HEAD4;
    tile.at3 = base + min(vec4u(12u, 13u, 14u, 15u), last) * HEAD4;

    var scores0 = vec4f();
    var scores1 = vec4f();
    var scores2 = vec4f();
    var scores3 = vec4f();
    for (var c = 0u; c < HEAD4; c++) {
      let q = vec4f(qkv[query + c]);
      scores0 += dots(q, tile.at0 + c);
      scores1 += dots(q, tile.at1 + c);
      scores2 += dots(q, tile.at2 + c);
      scores3 += dots(q, tile.at3 + c);
    }
    scores0 = visibleScores(scores0, first, position);
    scores1 = visibleScores(scores1, first + 4u, position);
    scores2 = visibleScores(scores2, first + 8u, position);
    scores3 = visibleScores(scores3, first + 12u, position);

    let before = maximum;
    maximum = max(maximum, largest(max(max(scores0, scores1), max(scores2, scores3))));
    tile.keep = exp(before - maximum);
    // A row that has seen no key yet has maximum == LOWEST: its weights must be 0, not exp(0).
    let seen = maximum > LOWEST;
    tile.weights0 = select(vec4f(), exp(scores0 - maximum), seen);
    tile.weights1 = select(vec4f(), exp(scores1 - maximum), seen);
    tile.weights2 = select(vec4f(), exp(scores2 - maximum), seen);
    tile.weights3 = select(vec4f(), exp(scores3 - maximum), seen);
    sum = sum * tile.keep + dot(tile.weights0 + tile.weights1 + tile.weights2 + tile.weights3, vec4f(1.0));

    out0 = weighed(out0, tile, column);
    if (SLICE4 > 4u) { out1 = weighed(out1, tile, column + 4u); }
    if (SLICE4 > 8u) { out2 = weighed(out2, tile, column + 8u); }
    if (SLICE4 > 12u) { out3 = weighed(out3, tile, column + 12u); }
    if (SLICE4 > 16u) { out4 = weighed(out4, tile, column + 16u); }
    if (SLICE4 > 20u) { out5 = weighed(out5, tile, column + 20u); }
    if (SLICE4 > 24u) { out6 = weighed(out6, tile, column + 24u); }
    if (SLICE4 > 28u) { out7 = weighed(out7, tile, column + 28u); }
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
