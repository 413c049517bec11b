// Rows of a product with chosen experts, one entry for each choice: entry r * k + i is the i-th of the k experts of row r. Twin of
// rows-sorted.wgsl for few rows; it stands on lib/experts.wgsl. Tiles are one entry high. It comes behind the kernel's own
// bindings.

@group(0) @binding(5) var<storage, read> residency: array<u32>; // the slot of each expert (SLOTTED)
@group(0) @binding(6) var<storage, read> chosen: array<u32>;

fn tileOf(y: u32, height: u32, firstN: u32, width: u32) -> Tile {
  return expertTile(chosen[y], y, y + 1u, firstN, width);
}

fn inputRow(entry: u32) -> u32 { return entry / PER_INPUT; }
fn outputRow(entry: u32) -> u32 { return entry; }
