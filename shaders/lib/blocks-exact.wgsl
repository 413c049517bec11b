// Blocks of the KV cache as attention-decode and attention-prefill read them, if all of them are exact: the functions of
// blocks-packed.wgsl, never called. No bindings.

const PACKED = false; // whether blocks before a row's own one are packed

struct PackedKeys { at: u32 }

fn packedKeys(slot: u32, kvHead: u32, offset: u32) -> PackedKeys { return PackedKeys(); }
fn fourPackedKeys(four: PackedKeys, c: u32) -> mat4x4f { return mat4x4f(); }
fn packedValue(slot: u32, kvHead: u32, offset: u32, column: u32) -> vec4f { return vec4f(); }
