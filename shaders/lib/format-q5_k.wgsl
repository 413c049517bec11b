// Decodes Q5_K weights: as Q4_K (256 values in 8 groups of 32, 6-bit scales and minimums), with a fifth bit for each;
// value = d * scale * (nibble + 16 * bit) - dmin * minimum. A unit is a group; bit g of byte l belongs to group g.
// Tile: 256 columns; a row has 1 vec4 (d and dmin, 12 bytes of scales), 2 of fifth bits, 8 of nibbles. See
// src/model/matrix/formats.ts.
const TILE_VECTORS = 176u; // vec4s in a tile of 16 rows

// (scale, minimum) of group g: 6 bits each in three words of bytes, split up for g >= 4.
fn groupScales(a: u32, b: u32, c: u32, g: u32) -> vec2f {
  let shift = (g & 3u) * 8u;
  let low = vec2u((a >> shift) & 63u, (b >> shift) & 63u);
  let rest = vec2u(c >> shift, c >> (shift + 4u)) & vec2u(15u);
  let top = (vec2u(a, b) >> vec2u(shift + 6u)) & vec2u(3u);
  return vec2f(select(low, rest | (top << vec2u(4u)), g >= 4u));
}

fn quints(nibbles: u32, shift: u32, bits: u32, g: u32) -> vec4f {
  return fields(nibbles, shift, 15u) + fields(bits, g, 1u) * 16.0;
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let g = unit % 8u;
  let base = ((row / 16u) * tiles + unit / 8u) * TILE_VECTORS + row % 16u;
  let head = weights[base];
  let dm = unpack2x16float(head.x) * groupScales(head.y, head.z, head.w, g);
  let d = vec4f(dm.x);
  let m = vec4f(-dm.y);
  let h = weights[base + 16u];
  let i = weights[base + 32u];
  let p = weights[base + 48u + (g / 2u) * 32u];
  let q = weights[base + 64u + (g / 2u) * 32u];
  let shift = (g & 1u) * 4u;
  return Unit(
    fma(quints(p.x, shift, h.x, g), d, m),
    fma(quints(p.y, shift, h.y, g), d, m),
    fma(quints(p.z, shift, h.z, g), d, m),
    fma(quints(p.w, shift, h.w, g), d, m),
    fma(quints(q.x, shift, i.x, g), d, m),
    fma(quints(q.y, shift, i.y, g), d, m),
    fma(quints(q.z, shift, i.z, g), d, m),
    fma(quints(q.w, shift, i.w, g), d, m),
  );
}
