// Pooling: one vector for each text of a step of whole texts.
//   pooled[i] = (MEAN) the mean of the text's rows, (FIRST) its first row, else its last row
//
// normed elem [rows, 4*D4], pooled out_t [texts, 4*D4]. logitRow(i) is the last row of text i; positions of a text count from
// 0, so that in a step of one chunk of a text the rows are those of the chunk.
// Needs lib/step and lib/bounded. Grid: x = D4 / WG rounded up, y = texts. No workgroup memory.
// Float order: rows in rising order, in f32.

override WG: u32 = 64u;
override D4: u32;
override MEAN: bool = false;
override FIRST: bool = false;
override LIMIT: f32; // the largest finite number of out_t

@group(0) @binding(0) var<storage, read> normed: array<vec4<elem>>;
@group(0) @binding(1) var<storage, read_write> pooled: array<vec4<out_t>>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= D4) { return; }
  let last = logitRow(id.y);
  let first = last - min(last, rowPosition(last));
  var begin = last;
  var end = last;
  if (MEAN || FIRST) { begin = first; }
  if (FIRST) { end = first; }
  var sum = vec4f();
  for (var row = begin; row <= end; row++) { sum += vec4f(normed[row * D4 + id.x]); }
  pooled[id.y * D4 + id.x] = vec4<out_t>(bounded4(sum / f32(end - begin + 1u), LIMIT));
}
