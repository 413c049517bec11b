// What the sampling kernels share: the parameters of a seat, the rows of a step, the result record, float order as
// integers, and an arg-max over the workgroup. A seat is the persistent sampling state of one running request.
//
// Logits are bound as u32, so that a NaN is seen by its bits, whatever a driver assumes about floats.
// Workgroup memory: 28 bytes.

struct Seat {
  flags: u32,
  seed: u32,
  topK: u32, // 0: off
  biasCount: u32,
  inverseTemperature: f32,
  topPTarget: u32, // nucleus mass in units of 2^-31; 0: off
  topPReach: f32, // ln((1 - topP) / vocab): what lies further below the maximum cannot be in the nucleus
  minPReach: f32, // ln(minP)
  repetition: f32,
  presence: f32,
  frequency: f32,
  logprobs: u32, // how many of the likeliest tokens to report
}

const GREEDY = 1u;
const ADJUSTED = 2u; // penalties or bias: the counts are read and kept
const MIN_P = 4u;
const LOGPROBS = 8u;

// One result record a row: token, tokens kept by the filters, number of top pairs + 1 (0: no log-probabilities),
// log-probability of the token, then the pairs (token, log-probability), likeliest first.
const RESULT_WORDS = 44u;
const MAX_TOP = 20u;
const NO_TOKEN = 0xffffffffu;

const LOWEST_FINITE_KEY = 0x00800000u; // of -FLT_MAX: a logit of -inf is never sampled

// Float bits as an integer of the same order; +0 and -0 are one key.
fn keyOfBits(raw: u32) -> u32 {
  let bits = select(raw, 0u, raw == 0x80000000u);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}

fn keyOf(value: f32) -> u32 {
  return keyOfBits(bitcast<u32>(value));
}

fn valueOfKey(key: u32) -> f32 {
  return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) != 0u));
}

// NaN or +inf: a row with one of these has no meaning.
fn isBroken(bits: u32) -> bool {
  return (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u;
}

struct Best {
  key: u32,
  id: u32,
  broken: u32,
}

var<workgroup> bestKey: atomic<u32>;
var<workgroup> bestIdDown: atomic<u32>;
var<workgroup> bestBroken: atomic<u32>;
var<workgroup> bestFound: vec3u;

// The largest key of the workgroup and, among equal ones, the lowest id; whether any invocation saw a broken logit.
// Integer maxima: the result does not depend on order. The same in every invocation.
fn bestOf(key: u32, id: u32, broken: bool, lid: u32) -> Best {
  atomicMax(&bestKey, key);
  if (broken) {
    atomicMax(&bestBroken, 1u);
  }
  workgroupBarrier();
  if (atomicLoad(&bestKey) == key) {
    atomicMax(&bestIdDown, NO_TOKEN - id);
  }
  workgroupBarrier();
  if (lid == 0u) {
    bestFound = vec3u(atomicLoad(&bestKey), NO_TOKEN - atomicLoad(&bestIdDown), atomicLoad(&bestBroken));
    atomicStore(&bestKey, 0u);
    atomicStore(&bestIdDown, 0u);
    atomicStore(&bestBroken, 0u);
  }
  let found = workgroupUniformLoad(&bestFound);
  return Best(found.x, found.y, found.z);
}
