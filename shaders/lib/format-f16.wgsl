// Decodes F16 weights. Tile: 32 columns, 4 vec4s a row, each with 8 values. See src/model/matrix/formats.ts for the layout.
const TILE_VECTORS = 64u; // vec4s in a tile of 16 rows

fn halves(x: u32, y: u32) -> vec4f {
  return vec4f(unpack2x16float(x), unpack2x16float(y));
}

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS + row % 16u;
  let a = weights[base];
  let b = weights[base + 16u];
  let c = weights[base + 32u];
  let d = weights[base + 48u];
  return Unit(
    halves(a.x, a.y),
    halves(a.z, a.w),
    halves(b.x, b.y),
    halves(b.z, b.w),
    halves(c.x, c.y),
    halves(c.z, c.w),
    halves(d.x, d.y),
    halves(d.z, d.w),
  );
}
