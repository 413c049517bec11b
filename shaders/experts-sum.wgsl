// What the chosen experts give together: delta[row] (+)= sum over i of weights[row, i] * outputs[row * CHOSEN + i], plus what
// the shared expert gives (SHARED), times the sigmoid of its gate (SHARED_GATE).
//
// outputs f32 [rows * CHOSEN, 4*D4]; weights f32 [rows, CHOSEN]; shared f32 [rows, 4*D4]; gate f32 [rows];
// delta f32 [rows, 4*D4].
// Needs lib/step and lib/bounded. Grid: x = D4 / WG rounded up, y = rows. No workgroup memory.
// Order of summation: the chosen experts in the order of their choice, then the shared one, then delta.

override WG: u32 = 64u;
override D4: u32;
override CHOSEN: u32;
override SHARED: bool = false;
override SHARED_GATE: bool = false;
override ACCUMULATE: bool = false;
override LIMIT: f32; // the largest finite f32

@group(0) @binding(0) var<storage, read> outputs: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> shared_: array<vec4f>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read_write> delta: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= D4) { return; }
  let row = id.y;
  var sum = vec4f();
  for (var i = 0u; i < CHOSEN; i++) {
    let choice = row * CHOSEN + i;
    sum += weights[choice] * outputs[choice * D4 + id.x];
  }
  let at = row * D4 + id.x;
  if (SHARED) {
    var factor = 1.0;
    if (SHARED_GATE) { factor = gated(1.0, gate[row]); }
    sum += factor * shared_[at];
  }
  if (ACCUMULATE) { sum += delta[at]; }
  delta[at] = bounded4(sum, LIMIT);
}
