// The gate of a layer's own embedding (Gemma 3n, Gemma 4): gated = gelu(gate) * input, in the tanh form of GELU.
//
// gate f32 [rows, 4*P4], in place; inputs f32 [rows, LAYERS * 4*P4], of which the layer reads its part.
// Needs lib/step and lib/bounded. Grid: x = P4 / WG rounded up, y = rows. No workgroup memory, no sums.

override WG: u32 = 64u;
override LAYERS: u32;
override P4: u32;

@group(0) @binding(0) var<uniform> layer: u32;
@group(0) @binding(1) var<storage, read_write> gate: array<vec4f>;
@group(0) @binding(2) var<storage, read> inputs: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= P4 || id.y >= step.rows) { return; }
  let at = id.y * P4 + id.x;
  let x = gate[at];
  let y = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x); // as in activation.wgsl
  gate[at] = gated4(x, y) * inputs[(id.y * LAYERS + layer) * P4 + id.x];
}
