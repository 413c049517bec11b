// Reads a unit (32 columns) of activations in common: each of SHARE invocations of a subgroup loads a part and passes it
// on. For adapters on which a load costs far more than a shuffle, which are the software ones. Twin of
// input-direct.wgsl; it stands on loadInput() of input-vec4.wgsl.
// Every invocation of a subgroup must ask for the same row and unit, in uniform control flow. SHARE is 8, or 4 where
// subgroups may be smaller than 8; there are no smaller ones than 4.

override SHARE: u32 = 4;

// The invocation's place among those that load together.
fn inputSeat() -> u32 {
  return subgroupExclusiveAdd(1u) % SHARE;
}

// The 32 columns of `unit` of `row`. Columns past the end of the row meet zero weights.
fn loadUnit(row: u32, unit: u32, columns: u32, seat: u32) -> Unit {
  let quad = unit * 8u + seat;
  let p = loadInput(row, quad, columns);
  var q = p;
  if (SHARE == 4u) {
    q = loadInput(row, quad + 4u, columns);
  }
  return Unit(
    subgroupShuffle(p, 0u),
    subgroupShuffle(p, 1u),
    subgroupShuffle(p, 2u),
    subgroupShuffle(p, 3u),
    subgroupShuffle(q, 4u % SHARE),
    subgroupShuffle(q, 5u % SHARE),
    subgroupShuffle(q, 6u % SHARE),
    subgroupShuffle(q, 7u % SHARE),
  );
}
