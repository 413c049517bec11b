// Gated activation of a feed-forward: act = f(gate) * up, f = silu or (GELU_TANH) the tanh form of GELU.
//
// gateUp elem [rows, gate 4*FF4 | up 4*FF4], act elem [rows, 4*FF4]; computed in f32, saturating at LIMIT.
// Needs lib/step and lib/bounded. Grid: x = FF4 / WG rounded up, y = rows. No workgroup memory, no sums.
// Both are x * sigmoid(y): the tanh form of GELU is x (1 + tanh z) / 2 = x * sigmoid(2z), and exp is more exact than
// WGSL's tanh, which may be NaN for large arguments (https://github.com/gpuweb/gpuweb/issues/4458).

override WG: u32 = 64u;
override FF4: u32;
override GELU_TANH: bool = false;
override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(0) var<storage, read> gateUp: array<vec4<elem>>;
@group(0) @binding(1) var<storage, read_write> act: array<vec4<elem>>;

fn activate(x: vec4f) -> vec4f {
  var y = x;
  if (GELU_TANH) {
    y = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x); // 2 sqrt(2/pi) (x + 0.044715 x^3)
  }
  return gated4(x, y);
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= FF4) { return; }
  let at = id.y * 2u * FF4 + id.x;
  let gate = vec4f(gateUp[at]);
  let up = vec4f(gateUp[at + FF4]);
  let result = bounded4(activate(gate) * up, LIMIT);
  act[id.y * FF4 + id.x] = vec4<elem>(result);
}
