// A decoded unit: 32 consecutive columns of one row of a weight matrix, in order. Every format-*.wgsl fragment has
//   fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit
// for the row and unit (column / 32) of the piece of a matrix bound as `weights: array<vec4u>`, whose rows have `tiles`
// tiles (src/model/matrix/formats.ts gives the layout). Rows up to the next multiple of 16 are there and decode to zeros.

struct Unit {
  w0: vec4f,
  w1: vec4f,
  w2: vec4f,
  w3: vec4f,
  w4: vec4f,
  w5: vec4f,
  w6: vec4f,
  w7: vec4f,
}

// The f16 that row `lane` of a tile keeps in the tail, which begins at vec4 `base`.
fn tailHalf(base: u32, lane: u32) -> f32 {
  let pair = unpack2x16float(weights[base + lane / 8u][(lane / 2u) % 4u]);
  return select(pair.x, pair.y, (lane & 1u) == 1u);
}

// The word that row `lane` of a tile keeps in a row of words left over, which begins at vec4 `base`.
fn tailWord(base: u32, lane: u32) -> u32 {
  return weights[base + lane / 4u][lane % 4u];
}

// The four bytes of a word, shifted right and masked: vec4(b0, b1, b2, b3) >> shift & mask. The mask is below 256 >> shift.
fn fields(word: u32, shift: u32, mask: u32) -> vec4f {
  return vec4f((vec4u(word) >> (vec4u(0u, 8u, 16u, 24u) + shift)) & vec4u(mask));
}
