// Decodes IQ4_NL weights: 32 nibbles and an f16 scale; value = scale * table[nibble], low nibbles first.
// Tile: 32 columns; a row has 1 vec4 of nibbles and the scale as tail. See src/model/matrix/formats.ts for the layout.
const TILE_VECTORS = 18u; // vec4s in a tile of 16 rows

// table = -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113 as signed bytes in four words: indexing an
// array by a computed value is slower than these selections.
fn lookUp(word: u32, shift: u32) -> vec4f {
  let q = vec4u(word) >> (vec4u(0u, 8u, 16u, 24u) + shift);
  let low = select(vec4u(0xbfad9881u), vec4u(0xf6eaddcfu), (q & vec4u(4u)) != vec4u(0u));
  let high = select(vec4u(0x26190d01u), vec4u(0x71594535u), (q & vec4u(4u)) != vec4u(0u));
  let four = select(low, high, (q & vec4u(8u)) != vec4u(0u));
  return vec4f(bitcast<vec4i>(four << (vec4u(24u) - (q & vec4u(3u)) * 8u)) >> vec4u(24u));
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS;
  let d = tailHalf(base + 16u, lane);
  let q = weights[base + lane];
  return Unit(
    lookUp(q.x, 0u) * d,
    lookUp(q.y, 0u) * d,
    lookUp(q.z, 0u) * d,
    lookUp(q.w, 0u) * d,
    lookUp(q.x, 4u) * d,
    lookUp(q.y, 4u) * d,
    lookUp(q.z, 4u) * d,
    lookUp(q.w, 4u) * d,
  );
}
