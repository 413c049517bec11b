// Reads activations one at a time: for inputs of any row length. Twin of input-vec4.wgsl.
alias input_t = elem;

// Columns 4*quad to 4*quad+3 of `row`. Past the end of the row it repeats the row's last value, which meets zero
// weights: never another row's values, so that a row's result depends on that row alone.
fn loadInput(row: u32, quad: u32, columns: u32) -> vec4f {
  let base = row * columns;
  let last = columns - 1u;
  let c = quad * 4u;
  return vec4f(
    f32(x[base + min(c, last)]),
    f32(x[base + min(c + 1u, last)]),
    f32(x[base + min(c + 2u, last)]),
    f32(x[base + min(c + 3u, last)]),
  );
}
