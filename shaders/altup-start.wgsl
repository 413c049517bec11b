// The streams of AltUp at the start: X_s = projected_s * |X_0| / |projected_s| for s = 1..3; X_0 is the embedding.
//
// streams as lib/altup has it; projected f32 [rows, 3 * 4*D4]. Needs lib/step, lib/reduce and lib/altup. Grid: x = rows.

@group(0) @binding(0) var<uniform> eps: f32; // unread
@group(0) @binding(1) var<storage, read> projected: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> streams: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.x;
  let first = row * 3u * D4;
  var squares = vec4f();
  for (var c = lid; c < D4; c += WG) {
    let x = streams[streamAt(0u, row, c)];
    let a = projected[first + c];
    let b = projected[first + D4 + c];
    let d = projected[first + 2u * D4 + c];
    squares += vec4f(dot(x, x), dot(a, a), dot(b, b), dot(d, d));
  }
  let sums = reduceSum4(squares, lid);
  let factors = sqrt(sums.x / sums);
  for (var c = lid; c < D4; c += WG) {
    streams[streamAt(1u, row, c)] = projected[first + c] * factors.y;
    streams[streamAt(2u, row, c)] = projected[first + D4 + c] * factors.z;
    streams[streamAt(3u, row, c)] = projected[first + 2u * D4 + c] * factors.w;
  }
}
