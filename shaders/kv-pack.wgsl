// Packs the blocks that a step completes: from the exact keys and values that kv-write has put into tails to codes of BITS bits
// (KIVI, 2402.02750, section 3): keys per channel over the block's tokens, values per token in groups of 32 channels.
//
// keys and values kv_t [tail][KV_HEADS][BLOCK_TOKENS][4*HEAD4]; packedKeys and packedValues as lib/blocks-packed.wgsl has them.
// Needs lib/step. Grid: x = KV_HEADS * (4*HEAD4 + (VALUES) BLOCK_TOKENS * GROUPS) / WG rounded up, y = blocks that the step may
// complete: those of its one sequence, from its first row's on (PREFILL), or of each sequence one. No workgroup memory.
//
// A group's numbers are those of any device, bit for bit, for each is exact or one rounded product or difference:
//   base = the least number, rounded down to a sign, 8 bits of exponent and 9 of fraction, 0 if it is less than 2^-126 away;
//   step = (most - base) / (2^BITS - 1), rounded up to 8 bits of exponent and 6 of fraction, 0 below 2^-126;
//   code of x = how many of (code - 1/2) * step are at most x - base: the nearest one, ties up.
// A value is at most step / 2 away from what it was. A group with a number that is not finite is NaN as a whole.

// Sizes are in a uniform: one pipeline serves all of them, and software drivers unroll no loop for minutes.

override WG: u32 = 64u;
override PREFILL: bool;
override VALUES: bool = true;

struct Op {
  kvHeads: u32,
  head: u32, // 4*HEAD4
  blockTokens: u32,
  bits: u32,
  inWord: u32, // 32 / bits
  keyWords: u32, // of a head's block
  codeWords: u32, // of a token's values
  groups: u32, // of a token's values
  levels: f32, // 2^bits - 1
  share: f32, // 1 / levels
}

const NAN_GROUP = 0x7fc00000u; // base NaN, step 0
const FINITE = 0x7f800000u;

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> keys: array<kv_t>;
@group(0) @binding(2) var<storage, read> values: array<kv_t>;
@group(0) @binding(3) var<storage, read_write> packedKeys: array<u32>;
@group(0) @binding(4) var<storage, read_write> packedValues: array<u32>;

// The least and the most of a group, and whether all of it is finite.
struct Range {
  low: f32,
  high: f32,
  isFinite: bool,
}

fn widened(range: Range, x: f32) -> Range {
  let isFinite = (bitcast<u32>(x) & FINITE) != FINITE;
  return Range(min(range.low, x), max(range.high, x), range.isFinite && isFinite);
}

fn groupOf(range: Range) -> u32 {
  if (!range.isFinite) { return NAN_GROUP; }
  let low = bitcast<u32>(range.low);
  var base = select(low, low + 0x3fffu, (low & 0x80000000u) != 0u) & 0xffffc000u;
  if ((low & FINITE) == 0u) { base = 0u; }
  let exact = bitcast<u32>((range.high - bitcast<f32>(base)) * op.share);
  let step = (exact + 0x1ffffu) >> 17u;
  return base | select(step, 0u, exact < 0x00800000u);
}

fn codeOf(x: f32, group: u32) -> u32 {
  let step = bitcast<f32>((group & 0x3fffu) << 17u);
  if (step == 0.0) { return 0u; }
  let away = x - bitcast<f32>(group & 0xffffc000u);
  var code = min(max(floor(away / step + 0.5), 0.0), op.levels); // of a division that may be rounded otherwise elsewhere
  if (code < op.levels && (code + 0.5) * step <= away) { code += 1.0; }
  if (code > 0.0 && (code - 0.5) * step > away) { code -= 1.0; }
  return u32(code);
}

fn packKey(source: u32, to: u32, channel: u32) {
  var range = Range(f32(keys[source + channel]), f32(keys[source + channel]), true);
  for (var t = 0u; t < op.blockTokens; t++) { range = widened(range, f32(keys[source + t * op.head + channel])); }
  let group = groupOf(range);
  for (var first = 0u; first < op.blockTokens; first += op.inWord) {
    var word = 0u;
    for (var t = 0u; t < op.inWord; t++) {
      word |= codeOf(f32(keys[source + (first + t) * op.head + channel]), group) << (t * op.bits);
    }
    packedKeys[to + first / op.inWord * op.head + channel] = word;
  }
  packedKeys[to + op.blockTokens / op.inWord * op.head + channel] = group;
}

fn packValue(source: u32, to: u32, token: u32, number: u32) {
  let start = source + token * op.head + number * 32u;
  let count = min(32u, op.head - number * 32u);
  var range = Range(f32(values[start]), f32(values[start]), true);
  for (var c = 0u; c < count; c++) { range = widened(range, f32(values[start + c])); }
  let group = groupOf(range);
  for (var first = 0u; first < count; first += op.inWord) {
    var word = 0u;
    for (var c = first; c < min(first + op.inWord, count); c++) {
      word |= codeOf(f32(values[start + c]), group) << ((c - first) * op.bits);
    }
    packedValues[to + token * op.codeWords + number * op.bits + first / op.inWord] = word;
  }
  packedValues[to + op.blockTokens * op.codeWords + token * op.groups + number] = group;
}

// The row that completes the block of this number in the grid, or step.rows.
fn completing(number: u32) -> u32 {
  if (!PREFILL) {
    return select(step.rows, number, rowPosition(number) % op.blockTokens == op.blockTokens - 1u);
  }
  let first = rowPosition(0u);
  return min((first / op.blockTokens + number + 1u) * op.blockTokens - 1u - first, step.rows);
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = completing(id.y);
  if (row >= step.rows) { return; }
  let slot = tableWord(rowSequence(row) * step.tableStride + rowPosition(row) / op.blockTokens);
  let tail = rowWrite(row) / op.blockTokens;
  let keyJobs = op.kvHeads * op.head;
  if (id.x < keyJobs) {
    let head = id.x / op.head;
    packKey((tail * op.kvHeads + head) * op.blockTokens * op.head, (slot * op.kvHeads + head) * op.keyWords, id.x % op.head);
    return;
  }
  let job = id.x - keyJobs;
  let head = job / (op.blockTokens * op.groups);
  if (!VALUES || head >= op.kvHeads) { return; }
  let source = (tail * op.kvHeads + head) * op.blockTokens * op.head;
  let valueWords = op.blockTokens * (op.codeWords + op.groups);
  packValue(source, (slot * op.kvHeads + head) * valueWords, job / op.groups % op.blockTokens, job % op.groups);
}
