// Selection by rank without sorting, over the order of sampling: key down, then id up. A radix descent over the bits of
// the keys and, where equal keys must be told apart, over those of the ids, 8 bits a pass.
// The kernel declares `fn keyAt(id: u32) -> u32` for ids below op.vocab, and `fn weightOf(mode: u32, key: u32, id: u32)
// -> u32`, 0 for tokens that are no candidates. Weights are integers whose sum fits 32 bits, so the result is exact
// and does not depend on the order in which invocations add.
// Needs WG (of lib/reduce) <= 256, a multiple of 16. Workgroup memory: 2,132 bytes.

var<workgroup> selectBins: array<atomic<u32>, 256>;
var<workgroup> selectGroups: array<u32, 16>;
var<workgroup> selectPick: vec3u;
var<workgroup> selectMaxima: array<u32, 256>;
var<workgroup> selectBound: atomic<u32>;
var<workgroup> selectBoundFound: u32;

const ANY_ID = 0xffffffffu;

// What one pass of the descent looks at: the candidates whose digits above `shift + width` are `prefix`.
struct Digits {
  byId: bool, // digits of the id, among keys equal to `key`; else of the key, from `key` on
  key: u32,
  prefix: u32,
  shift: u32,
  width: u32,
}

// The end (key, id) of the shortest run of tokens, counted from the top, whose weight reaches `wanted`; of all
// candidates from key `floor` on where they do not reach it. ANY_ID: every token of that key is in the run.
// All arguments are the same in every invocation. No candidate is above `top`.
fn endOfRun(mode: u32, wanted: u32, floor: u32, top: u32, lid: u32) -> vec2u {
  var digits = Digits(false, floor, 0u, 0u, 0u);
  var bits = bitsOf(top - floor);
  var above = 0u;
  var lastId = ANY_ID;
  while (bits != 0u) {
    digits.width = min(bits, 8u);
    digits.shift = bits - digits.width;
    addBins(mode, digits, lid);
    let pick = pickBin(above, wanted, lid);
    digits.prefix = (digits.prefix << digits.width) | pick.x;
    above = pick.y;
    bits = digits.shift;
    if (bits == 0u && digits.byId) {
      lastId = op.vocab - 1u - digits.prefix;
    } else if (bits == 0u) {
      digits = Digits(true, floor + digits.prefix, 0u, 0u, 0u);
      bits = select(0u, bitsOf(op.vocab - 1u), above + pick.z > wanted);
    }
  }
  return vec2u(digits.key, lastId);
}

// Bits needed for the numbers 0 .. largest, at least 1.
fn bitsOf(largest: u32) -> u32 {
  return 32u - min(countLeadingZeros(largest), 31u);
}

// Fills the bins with the weights of the candidates that `digits` describes, by their next digit.
fn addBins(mode: u32, digits: Digits, lid: u32) {
  for (var bin = lid; bin < 256u; bin += WG) {
    atomicStore(&selectBins[bin], 0u);
  }
  workgroupBarrier();
  for (var id = lid; id < op.vocab; id += WG) {
    let key = keyAt(id);
    if (select(key >= digits.key, key == digits.key, digits.byId)) {
      let rest = select(key - digits.key, op.vocab - 1u - id, digits.byId) >> digits.shift;
      if ((rest >> digits.width) == digits.prefix) {
        let weight = weightOf(mode, key, id);
        if (weight != 0u) {
          atomicAdd(&selectBins[rest & ((1u << digits.width) - 1u)], weight);
        }
      }
    }
  }
  workgroupBarrier();
}

// The highest bin with which the weight from the top reaches `wanted` (bin 0 where none does): (bin, above, at).
fn pickBin(above: u32, wanted: u32, lid: u32) -> vec3u {
  if (lid < 16u) {
    var sum = 0u;
    for (var i = 0u; i < 16u; i++) {
      sum += atomicLoad(&selectBins[lid * 16u + i]);
    }
    selectGroups[lid] = sum;
  }
  workgroupBarrier();
  if (lid == 0u) {
    var total = above;
    var group = 15u;
    while (group > 0u && total + selectGroups[group] < wanted) {
      total += selectGroups[group];
      group--;
    }
    var bin = group * 16u + 15u;
    while (bin > group * 16u && total + atomicLoad(&selectBins[bin]) < wanted) {
      total += atomicLoad(&selectBins[bin]);
      bin--;
    }
    selectPick = vec3u(bin, total, atomicLoad(&selectBins[bin]));
  }
  return workgroupUniformLoad(&selectPick);
}

// A lower bound of the k-th largest key: the k-th largest of the invocations' own maxima. 0 where k > WG.
// It keeps the many small items out of the bins, where they would only contend.
fn boundOfKth(own: u32, k: u32, lid: u32) -> u32 {
  if (k > WG) {
    return 0u;
  }
  selectMaxima[lid] = own;
  workgroupBarrier();
  var atLeast = 0u;
  for (var i = 0u; i < WG; i++) {
    atLeast += u32(selectMaxima[i] >= own);
  }
  if (atLeast >= k) {
    atomicMax(&selectBound, own);
  }
  workgroupBarrier();
  if (lid == 0u) {
    selectBoundFound = atomicLoad(&selectBound);
    atomicStore(&selectBound, 0u);
  }
  return workgroupUniformLoad(&selectBoundFound);
}
