// Which rows of a step are not finite at the end of all layers: status[row] = 1 where a number of hidden or delta is NaN
// or infinite, else 0. What is not finite in a layer's keys, values or states stays in the row that made it, because every
// kernel passes it on (lib/bounded), so that one look at the end suffices.
//
// hidden and delta f32 [rows, 4*D4], read as words: a compiler may assume that no number is NaN. status u32 [rows].
// Grid: x = rows. Workgroup memory: 4 bytes.

override D4: u32;

@group(0) @binding(0) var<storage, read> hidden: array<vec4u>;
@group(0) @binding(1) var<storage, read> delta: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> status: array<u32>;

const EXPONENT = 0x7f800000u;

var<workgroup> broken: atomic<u32>;

fn isBroken(words: vec4u) -> bool { return any((words & vec4u(EXPONENT)) == vec4u(EXPONENT)); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  var own = false;
  for (var c = lid; c < D4; c += 64u) {
    let at = wid.x * D4 + c;
    own = own || isBroken(hidden[at]) || isBroken(delta[at]);
  }
  if (own) { atomicOr(&broken, 1u); }
  workgroupBarrier();
  if (lid == 0u) { status[wid.x] = atomicLoad(&broken); }
}
