// Which rows of x a matrix product takes, and which rows of weights: every row of the step (or of its logit rows) with every
// row of the piece. Every rows-*.wgsl has the functions of this file, for kernels that declare `op` with firstRow and pieceRows.

override LOGIT_ROWS: bool = false;

struct Tile {
  first: u32, // entries first .. end - 1 of the list of rows
  end: u32,
  start: u32, // the piece's row that is the first to compute; it wraps below 0 where earlier ones lie in another piece
}

// The tile of `height` entries that a workgroup computes for the rows of weights firstN .. firstN + width - 1. Empty: none.
fn tileOf(y: u32, height: u32, firstN: u32, width: u32) -> Tile {
  return Tile(y * height, select(step.rows, step.logitRows, LOGIT_ROWS), 0u);
}

// Whether row n of the piece is one of those to compute.
fn isComputed(tile: Tile, n: u32) -> bool {
  return n < op.pieceRows;
}

// The index of the bias of row n of the piece.
fn biasOf(tile: Tile, n: u32) -> u32 { return op.firstRow + n; }

// The rows of x and of y that an entry of the list stands for.
fn inputRow(entry: u32) -> u32 { return entry; }
fn outputRow(entry: u32) -> u32 { return entry; }
