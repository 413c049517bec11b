// The same rows as in lib/mamba-rows (which it needs), bound once more and read in fours where all starts allow it.

override ALIGNED: bool = false; // X, B and C of every row start at a multiple of 4 and are whole fours

@group(0) @binding(2) var<storage, read> convolved4: array<vec4f>;

// Entries n to n + 3 of the B or C that starts at `at`; past its end zeros, or with ALIGNED any number.
fn four(at: u32, n: u32) -> vec4f {
  if (ALIGNED) { return convolved4[(at + n) / 4u]; }
  return singles(at, n);
}
