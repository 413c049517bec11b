// Reads and writes the state four entries p at a time: p, op.headDim, op.stateStride and op.stateOffset are multiples of
// 4. Twin of mamba-state-singles.wgsl. Needs lib/mamba; the kernel declares `state: array<state_t>`.

alias state_t = vec4f;

// Entries p to p + 3 of the run of op.headDim entries that starts at `at`.
fn stateFour(at: u32, p: u32) -> vec4f { return state[(at + p) / 4u]; }

fn setStateFour(at: u32, p: u32, value: vec4f) { state[(at + p) / 4u] = value; }
