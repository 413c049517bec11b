// The experts of each row and their weights.
// Scores p: softmax of the logits over all experts, or (SIGMOID) sigmoid of each. The CHOSEN experts with the largest p, plus
// their bias (BIASED), are chosen one after another, the lowest number first among equals. With GROUPS > 1, only experts of the
// GROUPS_USED groups are chosen whose two best (biased) scores have the largest sums. Weights: the p of the chosen, without the
// bias, divided by their sum (RENORMALISED), times op.scale, times a factor of each expert (SCALED). A softmax over the chosen
// logits alone is that over all, renormalised.
//
// logits f32 [rows, EXPERTS]; vectors f32: EXPERTS biases (BIASED), then EXPERTS factors (SCALED); chosen u32 [rows, CHOSEN];
// weights f32 [rows, CHOSEN]. All weights of a row with a logit that is not finite are NaN.
// Needs lib/step, lib/bounded and lib/reduce. Grid: y = rows. Workgroup memory: 8 * EXPERTS + 4 * GROUPS bytes beside lib/reduce's.

override EXPERTS: u32;
override CHOSEN: u32;
override SIGMOID: bool = false;
override BIASED: bool = false;
override SCALED: bool = false;
override RENORMALISED: bool = false;
override GROUPS: u32 = 1;
override GROUPS_USED: u32 = 1;

const LOWEST: f32 = -3.4028234e38;

struct Op {
  scale: f32,
  least: f32, // no sum that weights are divided by is smaller
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read_write> chosen: array<u32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;

var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> ranks: array<f32, EXPERTS>; // what is compared; the lowest number where an expert is out
var<workgroup> groupRanks: array<f32, GROUPS>;

fn isBroken(x: f32) -> bool {
  return (bitcast<u32>(x) & EXPONENT_BITS) == EXPONENT_BITS;
}

fn score(row: u32, lid: u32) -> f32 {
  var broken = 0.0;
  var largest = LOWEST;
  for (var e = lid; e < EXPERTS; e += WG) {
    let x = logits[row * EXPERTS + e];
    broken = select(broken, 1.0, isBroken(x));
    if (BIASED) {
      broken = select(broken, 1.0, isBroken(vectors[e]));
    }
    largest = max(largest, select(x, 0.0, isBroken(x)));
  }
  broken = reduceMax(broken, lid);
  largest = reduceMax(largest, lid);
  var sum = 0.0;
  for (var e = lid; e < EXPERTS; e += WG) {
    let x = logits[row * EXPERTS + e];
    let finite = select(x, 0.0, isBroken(x));
    scores[e] = select(exp(finite - largest), gated(1.0, finite), SIGMOID);
    sum += scores[e];
  }
  sum = reduceSum(sum, lid);
  for (var e = lid; e < EXPERTS; e += WG) {
    if (!SIGMOID) {
      scores[e] /= sum;
    }
    ranks[e] = scores[e];
    if (BIASED) {
      ranks[e] += vectors[e];
    }
  }
  return broken;
}

// Puts the experts out whose groups are not used.
fn limitGroups(lid: u32) {
  let size = EXPERTS / GROUPS;
  for (var g = lid; g < GROUPS; g += WG) {
    var best = LOWEST;
    var second = 0.0;
    for (var e = g * size; e < (g + 1u) * size; e++) {
      let rank = ranks[e];
      if (e == g * size) {
        best = rank;
        second = select(LOWEST, 0.0, size == 1u);
      } else if (rank > best) {
        second = best;
        best = rank;
      } else {
        second = max(second, rank);
      }
    }
    groupRanks[g] = best + second;
  }
  workgroupBarrier();
  for (var e = lid; e < EXPERTS; e += WG) {
    let own = e / size;
    var better = 0u;
    for (var g = 0u; g < GROUPS; g++) {
      better += u32(groupRanks[g] > groupRanks[own] || (groupRanks[g] == groupRanks[own] && g < own));
    }
    if (better >= GROUPS_USED) {
      ranks[e] = LOWEST;
    }
  }
}

// The expert with the largest rank, which is put out.
fn takeBest(lid: u32) -> u32 {
  var best = LOWEST;
  var at = EXPERTS - 1u;
  for (var e = lid; e < EXPERTS; e += WG) {
    if (ranks[e] > best) {
      best = ranks[e];
      at = e;
    }
  }
  let highest = reduceMax(best, lid);
  let lowestNumber = reduceMax(select(LOWEST, -f32(at), best == highest), lid);
  let expert = min(u32(-lowestNumber), EXPERTS - 1u);
  if (expert % WG == lid) {
    ranks[expert] = LOWEST;
  }
  return expert;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = group.y;
  let broken = score(row, lid);
  workgroupBarrier();
  if (GROUPS > 1u) {
    limitGroups(lid);
    workgroupBarrier();
  }
  var sum = 0.0;
  for (var i = 0u; i < CHOSEN; i++) {
    let expert = takeBest(lid);
    sum += scores[expert];
    if (lid == 0u) {
      chosen[row * CHOSEN + i] = expert;
    }
  }
  if (lid != 0u) {
    return;
  }
  let factor = op.scale / select(1.0, max(sum, op.least), RENORMALISED);
  for (var i = 0u; i < CHOSEN; i++) {
    let expert = chosen[row * CHOSEN + i];
    var weight = scores[expert] * factor;
    if (SCALED) {
      weight *= vectors[select(0u, EXPERTS, BIASED) + expert];
    }
    let bits = select(bitcast<u32>(weight), EXPONENT_BITS | QUIET_BIT, broken > 0.0);
    weights[row * CHOSEN + i] = bitcast<f32>(bits);
  }
}
