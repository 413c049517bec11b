// Rows of a product with chosen experts, sorted by expert (sort-experts.wgsl), so that a tile has one expert. Twin of
// rows-chosen.wgsl for many rows, with the same choices, input and output. It comes behind the kernel's own bindings.

@group(0) @binding(5) var<storage, read> residency: array<u32>; // the slot of each expert (SLOTTED)
@group(0) @binding(6) var<storage, read> order: array<u32>;
@group(0) @binding(7) var<storage, read> tiles: array<vec4u>; // how many; then expert, first, end of each

fn tileOf(y: u32, height: u32, firstN: u32, width: u32) -> Tile {
  if (y >= tiles[0].x) {
    return Tile(0u, 0u, 0u, 0u);
  }
  let tile = tiles[1u + y];
  return expertTile(tile.x, tile.y, tile.z, firstN, width);
}

fn inputRow(entry: u32) -> u32 { return order[entry] / PER_INPUT; }
fn outputRow(entry: u32) -> u32 { return order[entry]; }
