// Decodes Q2_K weights: 256 values of 2 bits, a 4-bit scale and minimum for each 16, f16 scales of both;
// value = d * scale * q - dmin * minimum. Unit u holds bits 2 * (u % 4) of the 32 bytes of half u / 4.
// Tile: 256 columns; a row has 4 vec4s of values, 1 of scales, 1 word (d, dmin). See src/model/matrix/formats.ts.
const TILE_VECTORS = 84u; // vec4s in a tile of 16 rows

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let u = unit % 8u;
  let tile = ((row / 16u) * tiles + unit / 8u) * TILE_VECTORS;
  let base = tile + lane;
  let dm = unpack2x16float(tailWord(tile + 80u, lane));
  let scales = weights[base + 64u][u / 2u] >> ((u & 1u) * 16u);
  let d0 = dm.x * f32(scales & 15u);
  let m0 = -dm.y * f32((scales >> 4u) & 15u);
  let d1 = dm.x * f32((scales >> 8u) & 15u);
  let m1 = -dm.y * f32((scales >> 12u) & 15u);
  let p = weights[base + (u / 4u) * 32u];
  let q = weights[base + (u / 4u) * 32u + 16u];
  let shift = (u % 4u) * 2u;
  return Unit(
    fma(fields(p.x, shift, 3u), vec4f(d0), vec4f(m0)),
    fma(fields(p.y, shift, 3u), vec4f(d0), vec4f(m0)),
    fma(fields(p.z, shift, 3u), vec4f(d0), vec4f(m0)),
    fma(fields(p.w, shift, 3u), vec4f(d0), vec4f(m0)),
    fma(fields(q.x, shift, 3u), vec4f(d1), vec4f(m1)),
    fma(fields(q.y, shift, 3u), vec4f(d1), vec4f(m1)),
    fma(fields(q.z, shift, 3u), vec4f(d1), vec4f(m1)),
    fma(fields(q.w, shift, 3u), vec4f(d1), vec4f(m1)),
  );
}
