// Cap of the logits, in place: x becomes cap * tanh(x / cap).
//
// Bindings: logits f32 [logitRows, vocab]. Needs lib/step. Grid: x = vocab / WG rounded up, y = logit rows. No workgroup
// memory, no sums.
// tanh is computed by exp: WGSL's own tanh is less exact and may be NaN for large arguments
// (https://github.com/gpuweb/gpuweb/issues/4458). Numbers that are not finite stay unchanged: the sampler must see them.

override WG: u32 = 128u;

struct Op {
  vocab: u32,
  cap: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read_write> logits: array<u32>;

const EXPONENT = 0x7f800000u; // all bits set: infinity or NaN

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= op.vocab || id.y >= step.logitRows) { return; }
  let at = id.y * op.vocab + id.x;
  let bits = logits[at];
  if ((bits & EXPONENT) == EXPONENT) { return; }
  let x = bitcast<f32>(bits);
  let shrunk = exp(-2.0 * min(abs(x) / op.cap, 40.0));
  logits[at] = bitcast<u32>(sign(x) * op.cap * (1.0 - shrunk) / (1.0 + shrunk));
}
