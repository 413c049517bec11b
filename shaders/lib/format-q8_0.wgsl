// Decodes Q8_0 weights: 32 signed bytes and an f16 scale; value = scale * byte.
// Tile: 32 columns; a row has 2 vec4s of bytes and the scale as tail. See src/model/matrix/formats.ts for the layout.
const TILE_VECTORS = 34u; // vec4s in a tile of 16 rows

fn signedBytes(word: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS;
  let d = tailHalf(base + 32u, lane);
  let p = weights[base + lane];
  let q = weights[base + 16u + lane];
  return Unit(
    signedBytes(p.x) * d,
    signedBytes(p.y) * d,
    signedBytes(p.z) * d,
    signedBytes(p.w) * d,
    signedBytes(q.x) * d,
    signedBytes(q.y) * d,
    signedBytes(q.z) * d,
    signedBytes(q.w) * d,
  );
}
