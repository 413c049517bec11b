// Decodes MXFP4 weights: 32 numbers of 4 bits (sign, 2 of exponent, 1 of mantissa) and a power of two;
// value = 2^(e - 128) * table[nibble], table = 0 1 2 3 4 6 8 12 and its negatives, low nibbles first.
// Tile: 32 columns; a row has 1 vec4 of nibbles and the byte e as tail. See src/model/matrix/formats.ts for the layout.
// Powers below 2^-126, which f32 has only as subnormal numbers, become 0.
const TILE_VECTORS = 17u; // vec4s in a tile of 16 rows

fn doubled(word: u32, shift: u32) -> vec4f {
  let q = vec4u(word) >> (vec4u(0u, 8u, 16u, 24u) + shift);
  let m = q & vec4u(7u);
  let large = ((m & vec4u(1u)) + 2u) << ((max(m, vec4u(2u)) >> vec4u(1u)) - 1u);
  let size = vec4f(select(m, large, m >= vec4u(2u)));
  return select(size, -size, (q & vec4u(8u)) != vec4u(0u));
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS;
  let e = (weights[base + 16u][lane / 4u] >> ((lane % 4u) * 8u)) & 255u;
  let d = bitcast<f32>((max(e, 1u) - 1u) << 23u);
  let q = weights[base + lane];
  return Unit(
    doubled(q.x, 0u) * d,
    doubled(q.y, 0u) * d,
    doubled(q.z, 0u) * d,
    doubled(q.w, 0u) * d,
    doubled(q.x, 4u) * d,
    doubled(q.y, 4u) * d,
    doubled(q.z, 4u) * d,
    doubled(q.w, 4u) * d,
  );
}
