// Reads and writes the state four entries p at a time, whatever the sizes are. Twin of mamba-state-fours.wgsl. Needs
// lib/mamba; the kernel declares `state: array<state_t>`.

alias state_t = f32;

// Entries p to p + 3 of the run of op.headDim entries that starts at `at`; past its end the last one again.
fn stateFour(at: u32, p: u32) -> vec4f {
  let places = at + min(p + vec4u(0u, 1u, 2u, 3u), vec4u(op.headDim - 1u));
  return vec4f(state[places.x], state[places.y], state[places.z], state[places.w]);
}

// Leaves what is past the end as it is.
fn setStateFour(at: u32, p: u32, value: vec4f) {
  state[at + p] = value.x;
  if (p + 1u < op.headDim) { state[at + p + 1u] = value.y; }
  if (p + 2u < op.headDim) { state[at + p + 2u] = value.z; }
  if (p + 3u < op.headDim) { state[at + p + 3u] = value.w; }
}
