// Draws the next token of each row. One workgroup a row; a row's result depends on its logits, its seat's state and
// its position alone.
//
// The chain, as llama.cpp's default: bias, penalties (repetition, then frequency and presence), top-k, top-p, min-p,
// temperature, draw. Repetition looks at prompt and generated tokens; presence and frequency at generated ones.
//   top-k   exactly k tokens stay, equal logits by lowest id.
//   top-p   of the tokens left, renormalised at temperature 1, the shortest run of likeliest ones with mass >= topP
//           (within 2^-20), equal logits by lowest id. Masses are integers of 2^-31, so sums are exact in any order.
//   min-p   tokens at least minP times as likely as the likeliest stay.
//   draw    arg-max of logit / temperature + Gumbel noise, a hash of (seed, position, token): no running sums.
// Temperature 0 is the arg-max (lowest id) after bias and penalties: one pass over the row.
// All filters cut the same order (logit down, id up), so one pair (cutKey, cutId) says what is left.
//
// Bindings: logits [rows][vocab] f32 (as u32); sampleRows [rows] (seat, position); seats [seats]; bias
//   [seats][biasStride] (id, f32 bits), ascending ids; counts [seats][vocab]; tokens [seats]; results
//   [rows][RESULT_WORDS]. Two rows of a step never share a seat, so counts and tokens have one writer each.
// counts word: bit 31 in the prompt, bit 30 has a bias, bits 0..15 times generated (saturating).
// A row with a NaN or +inf, or without a finite logit, gives NO_TOKEN in its result, and token 0 to the next step.
// Workgroup memory: that of lib/seat, lib/select and lib/reduce, and 4 bytes. Float order: the one sum (top-p) is
// over ids lid, lid + WG, ... in each invocation, then lib/reduce.

struct Op {
  vocab: u32,
  biasStride: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> sampleRows: array<vec2u>;
@group(0) @binding(3) var<storage, read> seats: array<Seat>;
@group(0) @binding(4) var<storage, read> bias: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> counts: array<u32>;
@group(0) @binding(6) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(7) var<storage, read_write> results: array<u32>;

const IN_PROMPT = 0x80000000u;
const BIASED = 0x40000000u;
const GENERATED = 0xffffu;

const BY_COUNT = 0u; // top-k: every token weighs 1
const BY_MASS = 1u; // top-p: every token weighs its probability

const LARGEST = 1e30; // adjusted logits stay finite
const FARTHEST = 1e5; // below the maximum, before the temperature: never drawn

var<private> seat: Seat;
var<private> logitBase: u32;
var<private> countBase: u32;
var<private> biasBase: u32;
var<private> maximum: f32;
var<private> massScale: f32;
var<private> cutKey: u32;
var<private> cutId: u32;
var<workgroup> keptCount: atomic<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lid: u32) {
  let place = sampleRows[group.x];
  let flags = seats[place.x].flags;
  seat = seats[place.x];
  logitBase = group.x * op.vocab;
  countBase = place.x * op.vocab;
  biasBase = place.x * op.biasStride;

  let own = ownBest(lid);
  let best = bestOf(own.key, own.id, own.broken != 0u, lid);
  if (best.broken != 0u || best.key < LOWEST_FINITE_KEY) {
    if (lid == 0u) {
      report(group.x, NO_TOKEN, 0u);
      tokens[place.x] = 0u;
    }
    return;
  }
  if ((flags & GREEDY) != 0u) {
    if (lid == 0u) {
      accept(group.x, place.x, best.id, 1u);
    }
    return;
  }

  maximum = valueOfKey(best.key);
  var cut = vec2u(LOWEST_FINITE_KEY, ANY_ID);
  // A loop, not two calls: compilers inline, and the selection is most of the code.
  for (var mode = BY_COUNT; mode <= BY_MASS; mode++) {
    let wanted = select(seats[place.x].topPTarget, seats[place.x].topK, mode == BY_COUNT);
    if (wanted != 0u) {
      var floor = keyOf(valueOfKey(best.key) + seats[place.x].topPReach);
      if (mode == BY_COUNT) {
        floor = boundOfKth(own.key, wanted, lid);
      }
      cut = narrowed(cut, mode, wanted, max(floor, cut.x), best.key, lid);
    }
  }
  if ((flags & MIN_P) != 0u) {
    let key = keyOf(maximum + seat.minPReach);
    cut = select(cut, vec2u(key, ANY_ID), key > cut.x);
  }
  cutKey = cut.x;
  cutId = cut.y;
  draw(group.x, place, lid);
}

// The best of this invocation's own tokens.
fn ownBest(lid: u32) -> Best {
  var own = Best(0u, NO_TOKEN, 0u);
  for (var id = lid; id < op.vocab; id += WG) {
    own.broken |= u32(isBroken(logits[logitBase + id]));
    let key = keyAt(id);
    if (key > own.key) {
      own.key = key;
      own.id = id;
    }
  }
  return own;
}

// ---- logits after bias and penalties

fn keyAt(id: u32) -> u32 {
  let raw = logits[logitBase + id];
  if ((seat.flags & ADJUSTED) == 0u) {
    return keyOfBits(raw);
  }
  let count = counts[countBase + id];
  if (count == 0u) {
    return keyOfBits(raw);
  }
  return keyOf(adjusted(bitcast<f32>(raw), count, id));
}

fn adjusted(logit: f32, count: u32, id: u32) -> f32 {
  var value = logit;
  if ((count & BIASED) != 0u) {
    value += biasOf(id);
  }
  let generated = count & GENERATED;
  if ((count & IN_PROMPT) != 0u || generated != 0u) {
    value = select(value * seat.repetition, value / seat.repetition, value > 0.0);
  }
  if (generated != 0u) {
    value -= f32(generated) * seat.frequency + seat.presence;
  }
  return bounded(value, LARGEST);
}

// Binary search in the seat's list, which holds every id whose counts word is marked BIASED.
fn biasOf(id: u32) -> f32 {
  var low = 0u;
  var high = seat.biasCount;
  while (low + 1u < high) {
    let middle = (low + high) / 2u;
    if (bias[biasBase + middle].x <= id) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return bitcast<f32>(bias[biasBase + low].y);
}

// ---- filters

fn isLeft(key: u32, id: u32) -> bool {
  return key > cutKey || (key == cutKey && id <= cutId);
}

fn weightOf(mode: u32, key: u32, id: u32) -> u32 {
  if (!isLeft(key, id)) {
    return 0u;
  }
  return select(1u, u32(exp(valueOfKey(key) - maximum) * massScale + 0.5), mode == BY_MASS);
}

// The cut after one more filter. Tokens below `floor` are known to be out.
fn narrowed(cut: vec2u, mode: u32, wanted: u32, floor: u32, top: u32, lid: u32) -> vec2u {
  cutKey = cut.x;
  cutId = cut.y;
  if (mode == BY_MASS) {
    massScale = 0x1p31 / massLeft(lid);
  }
  let end = endOfRun(mode, wanted, floor, top, lid);
  return vec2u(end.x, min(end.y, select(ANY_ID, cut.y, end.x == cut.x)));
}

// Sum of exp(logit - maximum) over the tokens left; at least 1.
fn massLeft(lid: u32) -> f32 {
  var sum = 0.0;
  for (var id = lid; id < op.vocab; id += WG) {
    let key = keyAt(id);
    if (isLeft(key, id)) {
      sum += exp(valueOfKey(key) - maximum);
    }
  }
  return reduceSum(sum, lid);
}

// ---- draw

fn draw(row: u32, place: vec2u, lid: u32) {
  let noise = vec2u(mix32(seat.seed ^ 0x9e3779b9u), mix32(mix32(place.y + 0x7f4a7c15u) ^ seat.seed));
  var own = Best(0u, NO_TOKEN, 0u);
  var kept = 0u;
  for (var id = lid; id < op.vocab; id += WG) {
    let key = keyAt(id);
    if (isLeft(key, id)) {
      kept++;
      let below = max(valueOfKey(key) - maximum, -FARTHEST);
      let score = keyOf(below * seat.inverseTemperature + gumbel(noise, id));
      if (score > own.key) {
        own.key = score;
        own.id = id;
      }
    }
  }
  atomicAdd(&keptCount, kept);
  let best = bestOf(own.key, own.id, false, lid);
  if (lid == 0u) {
    accept(row, place.x, best.id, atomicLoad(&keptCount));
  }
}

// A bijective mixer of 32 bits.
fn mix32(value: u32) -> u32 {
  var z = value;
  z = (z ^ (z >> 16u)) * 0x21f0aaadu;
  z = (z ^ (z >> 15u)) * 0x735a2d97u;
  return z ^ (z >> 15u);
}

// -ln(E) with E = -ln(1 - v) exponential. v is uniform in (0, 1) with steps of 2^-32 near 0, where E is small and the
// noise is large; there WGSL's log of a number near 1 is too coarse and a series takes its place.
fn gumbel(noise: vec2u, id: u32) -> f32 {
  let hash = mix32(mix32((id * 0x9e3779b1u) ^ noise.x) ^ noise.y);
  let v = min((f32(hash) + 0.5) * 0x1p-32, 0x1.fffffep-1);
  let series = v * (1.0 + v * (1.0 / 2.0 + v * (1.0 / 3.0 + v * (1.0 / 4.0 + v * (1.0 / 5.0 + v / 6.0)))));
  return -log(select(-log(1.0 - v), series, v < 0.0625));
}

// ---- results, by invocation 0

fn accept(row: u32, seatIndex: u32, id: u32, kept: u32) {
  report(row, id, kept);
  tokens[seatIndex] = id;
  if ((seat.flags & ADJUSTED) != 0u) {
    let word = counts[countBase + id];
    counts[countBase + id] = (word & ~GENERATED) | min((word & GENERATED) + 1u, GENERATED);
  }
}

fn report(row: u32, id: u32, kept: u32) {
  results[row * RESULT_WORDS] = id;
  results[row * RESULT_WORDS + 1u] = kept;
  results[row * RESULT_WORDS + 2u] = 0u;
}
