// Reads activations four at a time: for inputs whose row length is a multiple of 4. Twin of input-scalar.wgsl.
alias input_t = vec4<elem>;

// Columns 4*quad to 4*quad+3 of `row`. Past the end of the row it gives the row's last four, which meet zero weights:
// never another row's values, so that a row's result depends on that row alone.
fn loadInput(row: u32, quad: u32, columns: u32) -> vec4f {
  let quads = columns / 4u;
  return vec4f(x[row * quads + min(quad, quads - 1u)]);
}
