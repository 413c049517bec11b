// Which choices of experts matter little (HOBBIT, arXiv 2411.01433): those before which, in the order of their weights, stands
// more than op.above of the weight of all choices of the row. For the others the entry is EXPERTS.
//
// chosen u32, weights f32, unimportant u32: [rows, CHOSEN]. A row whose weights are NaN has none.
// Needs lib/step. Grid: x = choices / WG rounded up. No workgroup memory.

override WG: u32 = 64u;
override EXPERTS: u32;
override CHOSEN: u32;

struct Op {
  above: f32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> chosen: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> unimportant: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let choice = id.x;
  if (choice >= step.rows * CHOSEN) {
    return;
  }
  let own = abs(weights[choice]);
  let first = choice - choice % CHOSEN;
  var before = 0.0;
  var all = 0.0;
  for (var other = first; other < first + CHOSEN; other++) {
    let weight = abs(weights[other]);
    all += weight;
    if (weight > own || (weight == own && other < choice)) {
      before += weight;
    }
  }
  unimportant[choice] = select(EXPERTS, chosen[choice], before > op.above * all);
}
