// Causal depthwise convolution over the last KERNEL inputs of each channel, and the keeping of its state.
//   u(t)   = GATED ? B(t) * X(t) : mixed(t)[OFFSET + c]
//   sum(t) = sum over j < KERNEL of taps[c][j] * u(t - KERNEL + 1 + j)
//   out(t) = GATED ? C(t) * sum(t) : silu(sum(t) + bias[c])
// Inputs before the step's first row come from the state: the last KERNEL - 1 inputs, oldest first.
//
// mixed f32 [rows, STRIDE]; GATED: B, C and X of CHANNELS numbers each from OFFSET on. taps f32 [CHANNELS][KERNEL],
// bias f32 [CHANNELS] (BIAS). state f32 [slots][STATE_STRIDE], this part first: [KERNEL - 1][CHANNELS].
// convolved out_t [rows, CHANNELS].
// DECODE: row r is sequence r; else all rows are sequence 0, in order. The slot that is written is never one that is
// read, so the row that is last in its sequence may write the new state at any time.
// Needs lib/step and lib/bounded. Grid: x = CHANNELS / WG rounded up, y = rows. No workgroup memory.

override WG: u32 = 64u;
override CHANNELS: u32;
override KERNEL: u32;
override STRIDE: u32;
override OFFSET: u32 = 0u;
override STATE_STRIDE: u32;
override GATED: bool;
override BIAS: bool;
override DECODE: bool;
override LIMIT: f32; // the largest finite number of out_t

@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> taps: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> convolved: array<out_t>;

fn inputAt(row: u32, c: u32) -> f32 {
  let at = row * STRIDE + OFFSET + c;
  if (GATED) { return mixed[at] * mixed[at + 2u * CHANNELS]; }
  return mixed[at];
}

// The input `back` tokens before row `row`, which is number `index` of its sequence in this step.
fn inputBack(row: u32, index: u32, back: u32, sequence: u32, c: u32) -> f32 {
  if (back <= index) { return inputAt(row - back, c); }
  let slot = stateRead(sequence);
  if (slot == NO_STATE) { return 0.0; }
  return state[slot * STATE_STRIDE + (KERNEL - 1u + index - back) * CHANNELS + c];
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= CHANNELS) { return; }
  let row = id.y;
  let sequence = select(0u, row, DECODE);
  let index = select(row, 0u, DECODE);

  var sum = 0.0;
  for (var j = 0u; j < KERNEL; j++) {
    sum += taps[c * KERNEL + j] * inputBack(row, index, KERNEL - 1u - j, sequence, c);
  }
  if (GATED) {
    sum *= mixed[row * STRIDE + OFFSET + CHANNELS + c];
  } else {
    if (BIAS) { sum += bias[c]; }
    sum = gated(sum, sum);
  }
  convolved[row * CHANNELS + c] = out_t(bounded(sum, LIMIT));

  if (!DECODE && row != step.rows - 1u) { return; }
  let to = stateWrite(sequence) * STATE_STRIDE + c;
  for (var j = 0u; j + 1u < KERNEL; j++) {
    state[to + j * CHANNELS] = inputBack(row, index, KERNEL - 2u - j, sequence, c);
  }
}
