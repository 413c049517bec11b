// The weights of one of a layer's experts, for lib/rows-chosen.wgsl and lib/rows-sorted.wgsl: expert e has the rows
// e * EXPERT_ROWS .. of the whole matrix, of which a piece may hold a part.

override EXPERT_ROWS: u32;
// Entries that read the same row of x: as many as a row has experts, or 1 where each has its own. It stands here because Deno's
// compiler of shaders (naga 29) panics at an override that is declared behind the kernel's.
override PER_INPUT: u32;

struct Tile {
  first: u32, // entries first .. end - 1 of the list of rows
  end: u32,
  start: u32, // the piece's row that is the expert's first; it wraps below 0 where earlier ones lie in another piece
}

// Entries first .. end - 1 with one expert; empty where the piece has none of its rows firstN .. firstN + width - 1.
fn expertTile(expert: u32, first: u32, end: u32, firstN: u32, width: u32) -> Tile {
  let start = expert * EXPERT_ROWS - op.firstRow;
  let n = i32(start + firstN);
  let isHere = n < i32(op.pieceRows) && n + i32(width) > 0;
  return Tile(first, select(first, end, isHere), start);
}

fn isComputed(tile: Tile, n: u32) -> bool {
  return n < op.pieceRows && n - tile.start < EXPERT_ROWS;
}
