// Copies a buffer, 16 bytes an invocation and turn: the adapter's copy bandwidth. Not part of the engine.
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<u32>>;

override STRIDE: u32;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let length = arrayLength(&source);
  for (var i = id.x; i < length; i += STRIDE) {
    copied[i] = source[i];
  }
}
