// Saturation that keeps what is not finite. Finite numbers beyond the limit become the limit; NaN and infinity become NaN,
// so that the check at the end of a step (check.wgsl) and the sampler see them: clamp alone would turn them into a number
// that looks right. Every kernel that clamps does it here.
//
// The test is on the bits, and the NaN is made of them: a compiler may assume that no float is NaN, and WGSL has no constant
// for NaN (https://www.w3.org/TR/WGSL/#floating-point-evaluation). No bindings, no workgroup memory.

const EXPONENT_BITS = 0x7f800000u; // all set: infinity or NaN
const QUIET_BIT = 0x00400000u; // makes NaN of infinity

fn bounded(x: f32, limit: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let isFinite = (bits & EXPONENT_BITS) != EXPONENT_BITS;
  return bitcast<f32>(select(bits | QUIET_BIT, bitcast<u32>(clamp(x, -limit, limit)), isFinite));
}

fn bounded2(x: vec2f, limit: f32) -> vec2f {
  return vec2f(bounded(x.x, limit), bounded(x.y, limit));
}

fn bounded4(x: vec4f, limit: f32) -> vec4f {
  let bits = bitcast<vec4u>(x);
  let isFinite = (bits & vec4u(EXPONENT_BITS)) != vec4u(EXPONENT_BITS);
  let clamped = bitcast<vec4u>(clamp(x, vec4f(-limit), vec4f(limit)));
  return bitcast<vec4f>(select(bits | vec4u(QUIET_BIT), clamped, isFinite));
}

// x / (1 + exp(-y)), finite for all finite x: the argument of exp is clamped where the result no longer changes. y is NaN
// only where x is, which keeps it.
fn gated(x: f32, y: f32) -> f32 {
  return x / (1.0 + exp(clamp(-y, -80.0, 80.0)));
}

fn gated4(x: vec4f, y: vec4f) -> vec4f {
  return x / (1.0 + exp(clamp(-y, vec4f(-80.0), vec4f(80.0))));
}
