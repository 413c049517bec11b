// What the Mamba-2 kernels share: the layer's sizes, the step width, and the scratch of the chunk form.
//
// state f32 [slot][op.stateStride]: from op.stateOffset on, the matrices [head][n][p], p fastest: neighbouring
//   invocations own neighbouring p.
// scratch (prefill): a record for each chunk of CHUNK rows of the step, in floats:
//   weights [head][j][i]: what row j of the chunk adds to row i (mamba-scores); entries of rows i before j's run of
//     SPAN rows, and of rows past the step, are unwritten and reach no row of the step
//   sums [i][head]: log decay from the chunk's start up to and including row i, never positive
//   widths [i][head]: the step width dt
//   tails [i][head]: dt times the decay from row i to the chunk's last row
//   entries [head][n][p]: the state at the chunk's start
// The kernel declares nothing at group 0, binding 0.

override CHUNK: u32 = 64u; // a multiple of SPAN

const SPAN = 16u; // rows of a workgroup of mamba-chunk

// exp of this is 0 in f32, so that a stronger decay may count as this one: the sums then stay small and exact.
const FULL_DECAY = -104.0;

struct Op {
  heads: u32,
  headDim: u32,
  groups: u32,
  stateSize: u32,
  mixedStride: u32,
  convWidth: u32,
  stateStride: u32,
  stateOffset: u32,
  recordFloats: u32, // a multiple of 4
  eps: f32,
}

@group(0) @binding(0) var<uniform> op: Op;

fn inner() -> u32 { return op.heads * op.headDim; }

fn weightsAt(chunk: u32) -> u32 { return chunk * op.recordFloats; }
fn sumsAt(chunk: u32) -> u32 { return weightsAt(chunk) + op.heads * CHUNK * CHUNK; }
fn widthsAt(chunk: u32) -> u32 { return sumsAt(chunk) + op.heads * CHUNK; }
fn tailsAt(chunk: u32) -> u32 { return widthsAt(chunk) + op.heads * CHUNK; }
fn entriesAt(chunk: u32) -> u32 { return tailsAt(chunk) + op.heads * CHUNK; }

// log(1 + exp(x)) without exp of a positive number, and exact to a few units in the last place where it is tiny:
// log(1 + e) = 2 artanh(e / (2 + e)), whose series ends below 2^-25 for e <= 1.
fn softplus(x: f32) -> f32 {
  let e = exp(-abs(x));
  let t = e / (2.0 + e);
  let t2 = t * t;
  let series = 1.0 + t2 * (1.0 / 3.0 + t2 * (0.2 + t2 * (1.0 / 7.0 + t2 * (1.0 / 9.0 + t2 * (1.0 / 11.0 + t2 / 13.0)))));
  return max(x, 0.0) + 2.0 * t * series;
}

fn logDecay(width: f32, a: f32) -> f32 { return max(width * a, FULL_DECAY); }
