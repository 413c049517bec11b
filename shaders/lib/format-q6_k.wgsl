// Decodes Q6_K weights: 256 values of 6 bits (4 and 2), a signed byte of scale for each 16, an f16 scale of scales;
// value = d * scale * (q - 32). Unit u is part t = u % 4 of half u / 4: nibbles of bytes 32 * (t % 2) on, low for t < 2;
// bits 2t of the half's 32 bytes of high bits.
// Tile: 256 columns; a row has 8 vec4s of nibbles, 4 of high bits, 1 of scales, and d as tail. See src/model/matrix/formats.ts.
const TILE_VECTORS = 210u; // vec4s in a tile of 16 rows

fn sextets(nibbles: u32, shift: u32, bits: u32, t: u32) -> vec4f {
  return fields(nibbles, shift, 15u) + fields(bits, t * 2u, 3u) * 16.0 - 32.0;
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let u = unit % 8u;
  let half = u / 4u;
  let t = u % 4u;
  let tile = ((row / 16u) * tiles + unit / 8u) * TILE_VECTORS;
  let base = tile + lane;
  let scales = weights[base + 192u][u / 2u] >> ((u & 1u) * 16u);
  let d = tailHalf(tile + 208u, lane);
  let d0 = d * f32(bitcast<i32>(scales << 24u) >> 24u);
  let d1 = d * f32(bitcast<i32>(scales << 16u) >> 24u);
  let p = weights[base + (half * 4u + (t & 1u) * 2u) * 16u];
  let q = weights[base + (half * 4u + (t & 1u) * 2u) * 16u + 16u];
  let h = weights[base + 128u + half * 32u];
  let i = weights[base + 144u + half * 32u];
  let shift = (t / 2u) * 4u;
  return Unit(
    sextets(p.x, shift, h.x, t) * d0,
    sextets(p.y, shift, h.y, t) * d0,
    sextets(p.z, shift, h.z, t) * d0,
    sextets(p.w, shift, h.w, t) * d0,
    sextets(q.x, shift, i.x, t) * d1,
    sextets(q.y, shift, i.y, t) * d1,
    sextets(q.z, shift, i.z, t) * d1,
    sextets(q.w, shift, i.w, t) * d1,
  );
}
