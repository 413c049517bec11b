// Decodes Q5_1 weights: 32 nibbles, 32 fifth bits, f16 scale and minimum; value = scale * (nibble + 16 * bit) + minimum.
// Tile: 32 columns; a row has 1 vec4 of nibbles, 1 word of bits, 1 word (scale, minimum). See src/model/matrix/formats.ts.
const TILE_VECTORS = 24u; // vec4s in a tile of 16 rows

fn fifths(bits: u32, first: u32) -> vec4f {
  return vec4f((vec4u(bits) >> (vec4u(0u, 1u, 2u, 3u) + first)) & vec4u(1u)) * 16.0;
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS;
  let h = tailWord(base + 16u, lane);
  let dm = unpack2x16float(tailWord(base + 20u, lane));
  let d = vec4f(dm.x);
  let m = vec4f(dm.y);
  let q = weights[base + lane];
  return Unit(
    fma(fields(q.x, 0u, 15u) + fifths(h, 0u), d, m),
    fma(fields(q.y, 0u, 15u) + fifths(h, 4u), d, m),
    fma(fields(q.z, 0u, 15u) + fifths(h, 8u), d, m),
    fma(fields(q.w, 0u, 15u) + fifths(h, 12u), d, m),
    fma(fields(q.x, 4u, 15u) + fifths(h, 16u), d, m),
    fma(fields(q.y, 4u, 15u) + fifths(h, 20u), d, m),
    fma(fields(q.z, 4u, 15u) + fifths(h, 24u), d, m),
    fma(fields(q.w, 4u, 15u) + fifths(h, 28u), d, m),
  );
}
