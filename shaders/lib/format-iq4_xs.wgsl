// Decodes IQ4_XS weights: 256 nibbles in 8 groups of 32, a 6-bit scale for each (4 and 2 bits), an f16 scale of scales;
// value = d * (scale - 32) * table[nibble]. A unit is a group, low nibbles first.
// Tile: 256 columns; a row has 8 vec4s of nibbles, 1 word (d, top bits of scales), 1 word of scales. See
// src/model/matrix/formats.ts.
const TILE_VECTORS = 136u; // vec4s in a tile of 16 rows

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
  let g = unit % 8u;
  let tile = ((row / 16u) * tiles + unit / 8u) * TILE_VECTORS;
  let head = tailWord(tile + 128u, lane);
  let low = (tailWord(tile + 132u, lane) >> (g * 4u)) & 15u;
  let top = (head >> (16u + g * 2u)) & 3u;
  let d = unpack2x16float(head).x * (f32(low | (top << 4u)) - 32.0);
  let q = weights[tile + g * 16u + lane];
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
