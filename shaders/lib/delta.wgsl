// What the kernels of the gated delta rule share: the op's sizes, where a head's numbers stand, and the two gates
//   log alpha = A * softplus(a + dtBias) <= 0,  beta = sigmoid(b).
// Bindings from 1 on are the kernel's own.

struct Op {
  keyHeads: u32,
  valueHeads: u32,
  keyDim: u32,
  valueDim: u32,
  mixedStride: u32,
  zOffset: u32,
  bOffset: u32,
  aOffset: u32,
  stateStride: u32,
  stateOffset: u32,
  interleaved: u32, // 1: value head h belongs to key head h mod keyHeads; 0: to floor(h / (valueHeads / keyHeads))
  grouped: u32, // 1: b and a stand together, key head by key head: [b r; a r], r = valueHeads / keyHeads
  qScale: f32, // 1 / sqrt(keyDim)
  eps: f32,
}

@group(0) @binding(0) var<uniform> op: Op;

const NORM_EPS: f32 = 1e-6; // of the L2 norms of q and k, inside the root

// A run of rows in prefill, and where its parts stand in what delta-prepare.wgsl writes for delta-chunk.wgsl.
const RUN: u32 = 32u;
const ATTEND: u32 = 1024u;
const ENTER: u32 = 2048u;
const READ: u32 = 2080u;
const LEAVE: u32 = 2112u;
const PASS: u32 = 2144u;
const RUN_FLOATS: u32 = 2148u;

fn keyHeadOf(head: u32) -> u32 {
  if (op.interleaved == 1u) { return head % op.keyHeads; }
  return head / (op.valueHeads / op.keyHeads);
}

// Where value head `head` finds its b behind bOffset, and its a behind aOffset.
fn gateIndex(head: u32) -> u32 {
  let group = op.valueHeads / op.keyHeads;
  if (op.grouped == 1u) { return head / group * 2u * group + head % group; }
  return head;
}

// Floats of a row of q | k | v, and where its parts stand.
fn convolvedStride() -> u32 { return 2u * op.keyHeads * op.keyDim + op.valueHeads * op.valueDim; }
fn qOffset(head: u32) -> u32 { return keyHeadOf(head) * op.keyDim; }
fn kOffset(head: u32) -> u32 { return (op.keyHeads + keyHeadOf(head)) * op.keyDim; }
fn vOffset(head: u32) -> u32 { return 2u * op.keyHeads * op.keyDim + head * op.valueDim; }

// Where the matrix [keyDim][valueDim] of a head stands in the state buffer.
fn matrixOffset(slot: u32, head: u32) -> u32 {
  return slot * op.stateStride + op.stateOffset + head * op.keyDim * op.valueDim;
}

fn sigmoid(x: f32) -> f32 {
  let small = exp(-abs(x));
  return select(small, 1.0, x >= 0.0) / (1.0 + small);
}

// log(1 + exp(x)). WGSL's log may be off by 2^-21 between 1 and 2, and A multiplies that: the series of
// log(1 + e) = 2 artanh(e / (2 + e)) is exact to rounding there.
fn softplus(x: f32) -> f32 {
  let small = exp(-abs(x));
  let s = small / (2.0 + small);
  let s2 = s * s;
  var series = 1.0 / 13.0;
  series = series * s2 + 1.0 / 11.0;
  series = series * s2 + 1.0 / 9.0;
  series = series * s2 + 1.0 / 7.0;
  series = series * s2 + 1.0 / 5.0;
  series = series * s2 + 1.0 / 3.0;
  series = series * s2 + 1.0;
  return max(x, 0.0) + 2.0 * s * series;
}
