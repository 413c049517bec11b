// Paged attention of a decode step, second half: joins the partial softmaxes of a row's runs, in rising order, and
// divides by the sum of all weights, the sink's included.
//
// partials as attention-decode writes it; sinks f32 [HEADS] (SINKS); attn elem [sequences, HEADS * 4*VALUE4].
// Needs lib/step and lib/bounded. Grid: x = HEADS * VALUE4 / WG rounded up, y = sequences. No workgroup memory.
// Only runs that hold a position the row sees are read: exactly those that attention-decode wrote.
// Float order: runs in rising order.

override WG: u32 = 64u;
override HEADS: u32;
override VALUE4: u32;
override SPLIT_TOKENS: u32;
override SINKS: bool = false;
override LIMIT: f32; // the largest finite number of elem

struct Op {
  window: u32, // 0: none
  maxSplits: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> partials: array<vec4f>;
@group(0) @binding(2) var<storage, read> sinks: array<f32>;
@group(0) @binding(3) var<storage, read_write> attn: array<vec4<elem>>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= HEADS * VALUE4) { return; }
  let head = id.x / VALUE4;
  let column = id.x % VALUE4;
  let position = rowPosition(id.y);
  var begin = 0u;
  if (op.window > 0u) { begin = max(position + 1u, op.window) - op.window; }
  let first = begin / SPLIT_TOKENS;
  let last = position / SPLIT_TOKENS;
  let base = (id.y * HEADS + head) * op.maxSplits;

  var maximum = -1e30;
  if (SINKS) { maximum = sinks[head]; }
  for (var split = first; split <= last; split++) {
    maximum = max(maximum, partials[(base + split) * (1u + VALUE4)].x);
  }

  var total = 0.0;
  if (SINKS) { total = exp(sinks[head] - maximum); }
  var sum = vec4f();
  for (var split = first; split <= last; split++) {
    let at = (base + split) * (1u + VALUE4);
    let weight = exp(partials[at].x - maximum);
    total += weight * partials[at].y;
    sum += weight * partials[at + 1u + column];
  }
  let result = bounded4(sum / total, LIMIT);
  attn[id.y * HEADS * VALUE4 + id.x] = vec4<elem>(result);
}
