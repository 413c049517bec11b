// The weights of one of a layer's experts, for lib/rows-chosen.wgsl and lib/rows-sorted.wgsl. The whole matrix has all experts,
// expert e in the rows e * EXPERT_ROWS ..; or (SLOTTED) it has slots of SLOT_ROWS rows, and `residency` names the slot of each
// expert, or NO_SLOT: then nothing is computed for it. A piece may hold a part of the matrix. Biases are those of all experts.

override EXPERT_ROWS: u32;
override SLOTTED: bool = false;
override SLOT_ROWS: u32 = 0;
// Entries that read the same row of x: as many as a row has experts, or 1 where each has its own. It stands here because Deno's
// compiler of shaders (naga 29) panics at an override that is declared behind the kernel's.
override PER_INPUT: u32;

const NO_SLOT = 0xffffffffu;

struct Tile {
  first: u32, // entries first .. end - 1 of the list of rows
  end: u32,
  start: u32, // the piece's row that is the expert's first; it wraps below 0 where earlier ones lie in another piece
  bias: u32, // the index of the expert's first bias
}

// Entries first .. end - 1 with one expert; empty where the piece has none of its rows firstN .. firstN + width - 1.
fn expertTile(expert: u32, first: u32, end: u32, firstN: u32, width: u32) -> Tile {
  var start = expert * EXPERT_ROWS;
  if (SLOTTED) {
    let slot = residency[expert];
    if (slot == NO_SLOT) {
      return Tile(first, first, 0u, 0u);
    }
    start = slot * SLOT_ROWS;
  }
  start -= op.firstRow;
  let n = i32(start + firstN);
  let isHere = n < i32(op.pieceRows) && n + i32(width) > 0;
  return Tile(first, select(first, end, isHere), start, expert * EXPERT_ROWS);
}

fn isComputed(tile: Tile, n: u32) -> bool {
  return n < op.pieceRows && n - tile.start < EXPERT_ROWS;
}

fn biasOf(tile: Tile, n: u32) -> u32 { return tile.bias + n - tile.start; }
