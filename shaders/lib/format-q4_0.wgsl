// Decodes Q4_0 weights: 32 nibbles and an f16 scale; value = scale * (nibble - 8), low nibbles first.
// Tile: 32 columns; a row has 1 vec4 of nibbles and the scale as tail. See src/model/matrix/formats.ts for the layout.
const TILE_VECTORS = 18u; // vec4s in a tile of 16 rows

fn decodeUnit(row: u32, unit: u32, tiles: u32) -> Unit {
  let lane = row % 16u;
  let base = ((row / 16u) * tiles + unit) * TILE_VECTORS;
  let d = vec4f(tailHalf(base + 16u, lane));
  let m = d * -8.0;
  let q = weights[base + lane];
  return Unit(
    fma(fields(q.x, 0u, 15u), d, m),
    fma(fields(q.y, 0u, 15u), d, m),
    fma(fields(q.z, 0u, 15u), d, m),
    fma(fields(q.w, 0u, 15u), d, m),
    fma(fields(q.x, 4u, 15u), d, m),
    fma(fields(q.y, 4u, 15u), d, m),
    fma(fields(q.z, 4u, 15u), d, m),
    fma(fields(q.w, 4u, 15u), d, m),
  );
}
