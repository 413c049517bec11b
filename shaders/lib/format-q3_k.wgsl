// Decodes Q3_K weights: 256 values of 3 bits (2 and 1), a 6-bit scale for each 16, an f16 scale of scales;
// value = d * (scale - 32) * (q - (bit ? 0 : 4)). Unit u holds bits 2 * (u % 4) of the 32 bytes of half u / 4, and bit u
// of the 32 bytes of high bits. Scales: 16 nibbles in two words (8 low, 8 high), 16 pairs of top bits in a third.
// Tile: 256 columns; a row has 2 vec4s of high bits, 4 of values, 3 words of scales, and d as tail. See
// src/model/matrix/formats.ts.
const TILE_VECTORS = 110u; // vec4s in a tile of 16 rows

fn triplets(pairs: u32, shift: u32, bits: u32, u: u32) -> vec4f {
  return fields(pairs, shift, 3u) + fields(bits, u, 1u) * 4.0 - 4.0;
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let u = unit % 8u;
  let tile = ((row / 16u) * tiles + unit / 8u) * TILE_VECTORS;
  let base = tile + lane;
  // The unit's scales are numbers 2u and 2u+1: neighbouring bytes in both words.
  let low = tailWord(tile + 96u + ((u >> 1u) & 1u) * 4u, lane) >> ((u & 1u) * 16u + (u / 4u) * 4u);
  let top = tailWord(tile + 104u, lane) >> ((u & 1u) * 16u + (u / 2u) * 2u);
  let d = tailHalf(tile + 108u, lane);
  let d0 = d * (f32((low & 15u) | ((top & 3u) << 4u)) - 32.0);
  let d1 = d * (f32(((low >> 8u) & 15u) | (((top >> 8u) & 3u) << 4u)) - 32.0);
  let h = weights[base];
  let i = weights[base + 16u];
  let p = weights[base + 32u + (u / 4u) * 32u];
  let q = weights[base + 48u + (u / 4u) * 32u];
  let shift = (u % 4u) * 2u;
  return Unit(
    triplets(p.x, shift, h.x, u) * d0,
    triplets(p.y, shift, h.y, u) * d0,
    triplets(p.z, shift, h.z, u) * d0,
    triplets(p.w, shift, h.w, u) * d0,
    triplets(q.x, shift, i.x, u) * d1,
    triplets(q.y, shift, i.y, u) * d1,
    triplets(q.z, shift, i.z, u) * d1,
    triplets(q.w, shift, i.w, u) * d1,
  );
}
