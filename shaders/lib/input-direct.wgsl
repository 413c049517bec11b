// Reads a unit (32 columns) of activations, every invocation for itself. Twin of input-shared.wgsl; it stands on
// loadInput() of input-vec4.wgsl or input-scalar.wgsl.

// What loadUnit() wants to know of the invocation: nothing here.
fn inputSeat() -> u32 {
  return 0u;
}

// The 32 columns of `unit` of `row`. Columns past the end of the row meet zero weights.
fn loadUnit(row: u32, unit: u32, columns: u32, seat: u32) -> Unit {
  let quad = unit * 8u;
  return Unit(
    loadInput(row, quad, columns),
    loadInput(row, quad + 1u, columns),
    loadInput(row, quad + 2u, columns),
    loadInput(row, quad + 3u, columns),
    loadInput(row, quad + 4u, columns),
    loadInput(row, quad + 5u, columns),
    loadInput(row, quad + 6u, columns),
    loadInput(row, quad + 7u, columns),
  );
}
