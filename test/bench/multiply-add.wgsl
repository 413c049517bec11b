// Eight independent chains of f32 multiply-adds an invocation, from registers alone: the adapter's multiply-add rate.
// Not part of the engine.
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;

override TURNS: u32;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let x = sums[id.x];
  let y = 1.0 - x;
  var a = vec4(x, x + 1.0, x + 2.0, x + 3.0);
  var b = a + 4.0;
  for (var turn = 0u; turn < TURNS; turn++) {
    a = a * x + y;
    b = b * x + y;
    a = a * x + y;
    b = b * x + y;
    a = a * x + y;
    b = b * x + y;
    a = a * x + y;
    b = b * x + y;
  }
  sums[id.x] = 0.5 + 1e-9 * (a.x + a.y + a.z + a.w + b.x + b.y + b.z + b.w);
}
