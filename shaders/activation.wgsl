// Activation of a feed-forward: act = f(gate) * up, or (not GATED) f(up); or gpt-oss's clamped SwiGLU of gate and up.
// f (ACTIVATION): silu, the tanh form of GELU, GELU itself, ReLU squared, or xIELU with the constants of op:
//   positive * x^2 + slope * x where x > 0, else negative * (exp(min(x, limit)) - 1 - x) + slope * x.
//
// gateUp elem [rows, gate 4*FF4 | up 4*FF4], if ALTERNATING [rows, (gate, up) 4*FF4], without a gate [rows, up 4*FF4]; act elem [rows, 4*FF4]; computed in f32,
// saturating at LIMIT.
// Needs lib/step and lib/bounded. Grid: x = FF4 / WG rounded up, y * z = rows. No workgroup memory, no sums.
// Silu and the tanh form are x * sigmoid(y): the tanh form of GELU is x (1 + tanh z) / 2 = x * sigmoid(2z), and exp is more exact than
// WGSL's tanh, which may be NaN for large arguments (https://github.com/gpuweb/gpuweb/issues/4458).

override WG: u32 = 64u;
override FF4: u32;
override ACTIVATION: u32 = 0u;
override GATED: bool = true;
override ALTERNATING: bool = false;
override LIMIT: f32; // the largest finite number of elem

// Values of ACTIVATION; 0 is silu.
const GELU_TANH: u32 = 1u;
const GELU: u32 = 2u;
const RELU2: u32 = 3u;
const XIELU: u32 = 4u;
const CLAMPED: u32 = 5u; // g * sigmoid(1.702 g) * (u + 1), g = min(gate, 7), u = clamp(up, -7, 7)

struct Op {
  positive: f32,
  negative: f32,
  slope: f32,
  limit: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> gateUp: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read_write> act: array<vec4<elem>>;

// x * (1 - erfc(x / sqrt 2) / 2). erfc of z >= 0 is a Chebyshev fit whose relative error stays below 1.2e-7 (Press et al.,
// Numerical Recipes in C, section 6.2), so that the far tail of GELU keeps its digits.
fn gelu(x: vec4f) -> vec4f {
  let z = min(abs(x) * 0.7071067811865476, vec4f(12.0));
  let t = 1.0 / (1.0 + 0.5 * z);
  let low = t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))));
  let fit = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + low))));
  let tail = 0.5 * x * t * exp(fit - z * z);
  return select(x - tail, tail, x < vec4f(0.0));
}

// exp(x) - 1 - x for x <= 0: near 0 by its series, where the difference would leave nothing.
fn exponentialRest(x: vec4f) -> vec4f {
  let series = x * x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0))))));
  return select(exp(x) - 1.0 - x, series, x > vec4f(-0.5));
}

fn xielu(x: vec4f) -> vec4f {
  let below = min(x, vec4f(op.limit));
  let bent = op.negative * (exponentialRest(below) + (below - x));
  return op.slope * x + select(bent, op.positive * x * x, x > vec4f(0.0));
}

fn activate(x: vec4f) -> vec4f {
  if (ACTIVATION == GELU) { return gelu(x); }
  if (ACTIVATION == XIELU) { return xielu(x); }
  if (ACTIVATION == RELU2) { return select(x * x, vec4f(0.0), x < vec4f(0.0)); } // NaN stays
  var y = x;
  if (ACTIVATION == GELU_TANH) {
    y = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x); // 2 sqrt(2/pi) (x + 0.044715 x^3)
  }
  return gated4(x, y);
}

fn clamped(gate: vec4f, up: vec4f) -> vec4f {
  let finite = bounded4(gate, LIMIT);
  let g = select(finite, vec4f(7.0), finite > vec4f(7.0));
  return gated4(g, 1.702 * g) * (bounded4(up, 7.0) + 1.0);
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  if (id.x >= FF4) { return; }
  let row = id.z * groups.y + id.y;
  var result: vec4f;
  if (GATED) {
    let first = row * 2u * FF4 + select(id.x, 2u * id.x, ALTERNATING);
    let a = vec4f(gateUp[first]);
    let b = vec4f(gateUp[first + select(FF4, 1u, ALTERNATING)]);
    let gate = select(a, vec4f(a.xz, b.xz), ALTERNATING);
    let up = select(b, vec4f(a.yw, b.yw), ALTERNATING);
    if (ACTIVATION == CLAMPED) {
      result = clamped(gate, up);
    } else {
      result = activate(gate) * up;
    }
  } else {
    result = activate(vec4f(gateUp[row * FF4 + id.x]));
  }
  act[row * FF4 + id.x] = vec4<elem>(bounded4(result, LIMIT));
}
