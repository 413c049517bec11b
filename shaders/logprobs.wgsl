// Log-probabilities of sampled tokens and of the likeliest n of each row: the log-softmax of the model's own logits,
// before bias, penalties, filters and temperature. One workgroup a row; runs after sample.wgsl on the same results.
// Rows whose seat did not ask leave at once.
//
// Bindings: logits [rows][vocab] f32 (as u32), unchanged since the sampler read them; sampleRows [rows] (seat,
//   position); seats [seats]; results [rows][RESULT_WORDS], whose token is written by sample.wgsl.
// Workgroup memory: that of lib/seat, lib/select and lib/reduce, and 164 bytes. Float order: the sum is over ids lid,
// lid + WG, ... in each invocation, then lib/reduce.

struct Op {
  vocab: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> sampleRows: array<vec2u>;
@group(0) @binding(3) var<storage, read> seats: array<Seat>;
@group(0) @binding(4) var<storage, read_write> results: array<u32>;

var<private> logitBase: u32;
var<workgroup> topCount: atomic<u32>;
var<workgroup> topKeys: array<u32, MAX_TOP>;
var<workgroup> topIds: array<u32, MAX_TOP>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lid: u32) {
  let place = sampleRows[group.x].x;
  let wanted = min(seats[place].logprobs, MAX_TOP);
  if ((seats[place].flags & LOGPROBS) == 0u) {
    return;
  }
  logitBase = group.x * op.vocab;

  var own = 0u;
  for (var id = lid; id < op.vocab; id += WG) {
    own = max(own, keyAt(id));
  }
  let best = bestOf(own, 0u, false, lid);
  let maximum = valueOfKey(best.key);
  var sum = 0.0;
  for (var id = lid; id < op.vocab; id += WG) {
    sum += exp(valueOfKey(keyAt(id)) - maximum);
  }
  let normaliser = log(reduceSum(sum, lid));

  if (wanted != 0u) {
    collectTop(wanted, best.key, own, lid);
  }
  let base = group.x * RESULT_WORDS;
  let token = results[base];
  if (token == NO_TOKEN) {
    return;
  }
  let count = atomicLoad(&topCount);
  if (lid == 0u) {
    results[base + 2u] = count + 1u;
    results[base + 3u] = bitcast<u32>(valueOfKey(keyAt(token)) - maximum - normaliser);
  }
  if (lid < count) {
    let pair = base + 4u + 2u * rankOf(lid, count);
    results[pair] = topIds[lid];
    results[pair + 1u] = bitcast<u32>(valueOfKey(topKeys[lid]) - maximum - normaliser);
  }
}

fn keyAt(id: u32) -> u32 {
  return keyOfBits(logits[logitBase + id]);
}

fn weightOf(mode: u32, key: u32, id: u32) -> u32 {
  return 1u;
}

// Puts the `wanted` likeliest tokens (equal ones by lowest id; fewer where fewer are finite) into the list, unordered.
fn collectTop(wanted: u32, top: u32, own: u32, lid: u32) {
  let floor = max(boundOfKth(own, wanted, lid), LOWEST_FINITE_KEY);
  let end = endOfRun(0u, wanted, floor, max(top, floor), lid);
  for (var id = lid; id < op.vocab; id += WG) {
    let key = keyAt(id);
    if (key > end.x || (key == end.x && id <= end.y)) {
      let slot = atomicAdd(&topCount, 1u);
      if (slot < MAX_TOP) {
        topKeys[slot] = key;
        topIds[slot] = id;
      }
    }
  }
  workgroupBarrier();
}

// How many of the list are likelier than entry `index`, or equal with a lower id.
fn rankOf(index: u32, count: u32) -> u32 {
  var rank = 0u;
  for (var i = 0u; i < count; i++) {
    let likelier = topKeys[i] > topKeys[index];
    rank += u32(likelier || (topKeys[i] == topKeys[index] && topIds[i] < topIds[index]));
  }
  return rank;
}
