// The same rows as in lib/mamba-rows (which it needs), bound once more and read in fours where all starts allow it.

override ALIGNED: bool = false; // op.headDim and op.stateSize are multiples of 4

@group(0) @binding(2) var<storage, read> convolved4: array<vec4f>;

// Entries i to i + 3 of the `count` entries that start at `at`, i a multiple of 4; past their end zeros, or with ALIGNED
// any number.
fn four(at: u32, i: u32, count: u32) -> vec4f {
  if (ALIGNED) { return convolved4[(at + i) / 4u]; }
  return singles(at, i, count);
}
