// What the kernels of AltUp (Gemma 3n) share: four streams of the residual, of which number 0 is the one that layers read,
// and the router, which says how the streams mix.
//
// A buffer of streams is f32 [stream][STRIDE][4*D4]. router f32: first the norm's weight [4*D4], then the rows of the router
// [4][4*D4], then the coefficients of the prediction [16][4] and of the correction [4][4].
// Needs lib/bounded and one of the lib/reduce files (WG). Float order: each invocation sums its columns lid, lid + WG, ... in rising order, then
// the workgroup's sums.

override D4: u32;
override STRIDE: u32; // rows between two streams

const STREAMS = 4u;

fn streamAt(stream: u32, row: u32, column: u32) -> u32 {
  return (stream * STRIDE + row) * D4 + column;
}

fn inverseRms(squares: f32, eps: f32) -> f32 {
  return 1.0 / sqrt(squares / f32(4u * D4) + eps);
}

// 2 sigmoid(2x) - 1: WGSL's own tanh is less exact and may be NaN for large arguments
// (https://github.com/gpuweb/gpuweb/issues/4458).
fn tanh4(x: vec4f) -> vec4f {
  return gated4(vec4f(2.0), 2.0 * x) - 1.0;
}
