// Packed blocks of the KV cache as attention-decode and attention-prefill read them (KIVI, 2402.02750, section 3): kv-pack.wgsl
// writes them and defines their numbers. A value is base + step * code; both stand in one word (groupBase, groupStep).
//
// packedKeyWords vec4u [slot][KV_HEADS][KEY_WORDS4]: codes [BLOCK_TOKENS / TOKENS][HEAD4], each component a channel of TOKENS
// tokens, the first in the lowest bits; then a group a channel [HEAD4].
// packedValueWords u32 [slot][KV_HEADS][VALUE_WORDS]: codes [BLOCK_TOKENS][CODE_WORDS], the first channel in the lowest bits;
// then groups [BLOCK_TOKENS][GROUPS]. Not read if values are the first entries of keys (VALUES_ARE_KEYS).
// Needs HEAD4, KV_HEADS and BLOCK_TOKENS.

override BITS: u32; // of a code: 8, 4 or 2
override VALUES_ARE_KEYS: bool = false;
override TOKENS: u32 = 32u / BITS; // in a word of keys
override KEY_WORDS4: u32 = (BLOCK_TOKENS / TOKENS + 1u) * HEAD4;
override CODE_WORDS: u32 = (HEAD4 * 4u * BITS + 31u) / 32u; // of a token's values
override GROUPS: u32 = (HEAD4 + 7u) / 8u; // of 32 channels
override VALUE_WORDS: u32 = BLOCK_TOKENS * (CODE_WORDS + GROUPS);
override MASK: u32 = (1u << BITS) - 1u;

const PACKED = true; // whether blocks before a row's own one are packed

@group(0) @binding(6) var<storage, read> packedKeyWords: array<vec4u>;
@group(0) @binding(7) var<storage, read> packedValueWords: array<u32>;

// Where four keys of a block lie.
struct PackedKeys {
  at: u32, // their first word
  groups: u32,
  shift: u32, // of the first of the four in a word
}

fn groupBase(word: vec4u) -> vec4f { return bitcast<vec4f>(word & vec4u(0xffffc000u)); }
fn groupStep(word: vec4u) -> vec4f { return bitcast<vec4f>((word & vec4u(0x3fffu)) << vec4u(17u)); }

fn codesAt(words: vec4u, shift: u32) -> vec4f { return vec4f((words >> vec4u(shift)) & vec4u(MASK)); }

// Those from a multiple of 4 on.
fn packedKeys(slot: u32, kvHead: u32, offset: u32) -> PackedKeys {
  let start = (slot * KV_HEADS + kvHead) * KEY_WORDS4;
  let at = start + offset / TOKENS * HEAD4;
  return PackedKeys(at, start + BLOCK_TOKENS / TOKENS * HEAD4, offset % TOKENS * BITS);
}

// Entries 4c to 4c + 3 of each of the four keys.
fn fourPackedKeys(four: PackedKeys, c: u32) -> mat4x4f {
  let words = packedKeyWords[four.at + c];
  let group = packedKeyWords[four.groups + c];
  let base = groupBase(group);
  let step = groupStep(group);
  return mat4x4f(
    base + step * codesAt(words, four.shift),
    base + step * codesAt(words, four.shift + BITS),
    base + step * codesAt(words, four.shift + 2u * BITS),
    base + step * codesAt(words, four.shift + 3u * BITS),
  );
}

// Entries 4 * column to 4 * column + 3 of a value.
fn packedValue(slot: u32, kvHead: u32, offset: u32, column: u32) -> vec4f {
  if (VALUES_ARE_KEYS) {
    let four = packedKeys(slot, kvHead, offset);
    let group = packedKeyWords[four.groups + column];
    return groupBase(group) + groupStep(group) * codesAt(packedKeyWords[four.at + column], four.shift);
  }
  let start = (slot * KV_HEADS + kvHead) * VALUE_WORDS;
  let group = vec4u(packedValueWords[start + BLOCK_TOKENS * CODE_WORDS + offset * GROUPS + column / 8u]);
  let bit = column * 4u * BITS;
  let word = packedValueWords[start + offset * CODE_WORDS + bit / 32u] >> (bit % 32u);
  let codes = (vec4u(word) >> vec4u(0u, BITS, 2u * BITS, 3u * BITS)) & vec4u(MASK);
  return groupBase(group) + groupStep(group) * vec4f(codes);
}
