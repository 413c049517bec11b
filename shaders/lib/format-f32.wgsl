// Decodes F32 weights. Tile: 32 columns, 8 vec4s a row. See src/model/matrix/formats.ts for the layout.
const TILE_VECTORS = 128u; // vec4s in a tile of 16 rows

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS + row % 16u;
  return Unit(
    bitcast<vec4f>(weights[base]),
    bitcast<vec4f>(weights[base + 16u]),
    bitcast<vec4f>(weights[base + 32u]),
    bitcast<vec4f>(weights[base + 48u]),
    bitcast<vec4f>(weights[base + 64u]),
    bitcast<vec4f>(weights[base + 80u]),
    bitcast<vec4f>(weights[base + 96u]),
    bitcast<vec4f>(weights[base + 112u]),
  );
}
