// The output gate of attention (Qwen3-Next, Qwen3.5), whose query projection gives each head [q; gate].
//   COPY false: to *= sigmoid(source);  COPY true: to = source (the q parts, moved to where RoPE and attention read them)
// for each row, head and entry of a head.
//
// to elem [rows, 4*toStride], heads one after the other; source elem [rows, 4*sourceStride], head h at 4 * (sourceOffset +
// h * sourceHead). Sizes are in fours.
// Needs lib/step. Grid: x = rows * heads * head4 / 64 rounded up. No workgroup memory.

override COPY: bool;

struct Op {
  heads: u32,
  head4: u32,
  toStride: u32,
  sourceStride: u32,
  sourceOffset: u32,
  sourceHead: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read_write> to: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> source: array<vec4<elem>>;

fn sigmoid(x: vec4f) -> vec4f {
  let small = exp(-abs(x));
  return select(small, vec4f(1.0), x >= vec4f()) / (vec4f(1.0) + small);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let width = op.heads * op.head4;
  let row = id.x / width;
  if (row >= step.rows) { return; }
  let entry = id.x % width;
  let value = source[row * op.sourceStride + op.sourceOffset + entry / op.head4 * op.sourceHead + entry % op.head4];
  let at = row * op.toStride + entry;
  if (COPY) {
    to[at] = value;
  } else {
    to[at] = vec4<elem>(vec4f(to[at]) * sigmoid(vec4f(value)));
  }
}
