// Decodes Q4_K weights: 256 nibbles in 8 groups of 32, each with a 6-bit scale and minimum, and f16 scales of both;
// value = d * scale * nibble - dmin * minimum. A unit is a group; groups 2i and 2i+1 are low and high nibbles.
// Tile: 256 columns; a row has 1 vec4 (d and dmin, 12 bytes of scales) and 8 of nibbles. See src/model/matrix/formats.ts.
const TILE_VECTORS = 144u; // vec4s in a tile of 16 rows

// (scale, minimum) of group g: 6 bits each in three words of bytes, split up for g >= 4.
fn groupScales(a: u32, b: u32, c: u32, g: u32) -> vec2f {
  let shift = (g & 3u) * 8u;
  let low = vec2u((a >> shift) & 63u, (b >> shift) & 63u);
  let rest = vec2u(c >> shift, c >> (shift + 4u)) & vec2u(15u);
  let top = (vec2u(a, b) >> vec2u(shift + 6u)) & vec2u(3u);
  return vec2f(select(low, rest | (top << vec2u(4u)), g >= 4u));
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let g = unit % 8u;
  let base = ((row / 16u) * tiles + unit / 8u) * TILE_VECTORS + row % 16u;
  let head = weights[base];
  let dm = unpack2x16float(head.x) * groupScales(head.y, head.z, head.w, g);
  let d = vec4f(dm.x);
  let m = vec4f(-dm.y);
  let p = weights[base + 16u + (g / 2u) * 32u];
  let q = weights[base + 32u + (g / 2u) * 32u];
  let shift = (g & 1u) * 4u;
  return Unit(
    fma(fields(p.x, shift, 15u), d, m),
    fma(fields(p.y, shift, 15u), d, m),
    fma(fields(p.z, shift, 15u), d, m),
    fma(fields(p.w, shift, 15u), d, m),
    fma(fields(q.x, shift, 15u), d, m),
    fma(fields(q.y, shift, 15u), d, m),
    fma(fields(q.z, shift, 15u), d, m),
    fma(fields(q.w, shift, 15u), d, m),
  );
}
