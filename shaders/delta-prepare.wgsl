// The gated delta rule over runs of 32 rows (prefill), first part: what does not depend on the state. Of value head h and
// one run, with q and k normalised (q / sqrt(keyDim)), l_i = log alpha_i, decay(i, j) = exp(l_j+1 + ... + l_i) <= 1:
//   L_ij  = beta_i (k_i . k_j) decay(i, j)  for j < i
//   solve = (I + L)^-1 diag(beta), lower triangular;  attend_ij = (q_i . k_j) decay(i, j) for j <= i
//   enter_i = decay(i, -1) / |k_i|;  read_i = decay(i, -1) / |q_i| / sqrt(keyDim);  leave_i = decay(last, i) / |k_i|
//   pass = decay(last, -1)
// (Gated DeltaNet, arXiv 2412.06464, section 3.3.) Exponents are sums of the run's own l from j+1 to i, never differences
// of running sums, which would lose their digits after a strong decay.
//
// mixed f32 [rows, mixedStride] (b and a are read), convolved f32 [rows, q | k | v], dtBias and a f32 [valueHeads],
// runs f32 [run][valueHeads][RUN_FLOATS]: solve [32][32], attend [32][32], enter [32], read [32], leave [32], pass. Above
// the diagonals, and in rows past the step's end, nothing is written and nothing may be read.
// Needs lib/step and lib/delta. Grid: x = rows / 32 rounded up, y = valueHeads. 64 invocations a workgroup.
//
// An invocation makes a tile of 4 x 4 products; then one of each column solves it from the top, alone.
// Workgroup memory: 8.6 KiB.
// Float order: products over the entries of a head in rising order; sums over rows in rising order.


@group(0) @binding(1) var<storage, read> mixed: array<f32>;
@group(0) @binding(2) var<storage, read> convolved: array<f32>;
@group(0) @binding(3) var<storage, read> dtBias: array<f32>;
@group(0) @binding(4) var<storage, read> a: array<f32>;
@group(0) @binding(5) var<storage, read_write> runs: array<f32>;

var<workgroup> logAlpha: array<f32, 32>;
var<workgroup> betas: array<f32, 32>;
var<workgroup> kFactors: array<f32, 32>; // 1 / |k|
var<workgroup> qFactors: array<f32, 32>; // 1 / |q| / sqrt(keyDim)
var<workgroup> lower: array<f32, 1024>; // L
var<workgroup> inverse: array<f32, 1024>; // (I + L)^-1, each column of one invocation

// Length and gates of row i: half of the invocations take k and the decay, the others q and beta.
fn prepareRow(head: u32, row: u32, i: u32, isKey: bool) {
  var at = row * convolvedStride() + qOffset(head);
  if (isKey) { at = row * convolvedStride() + kOffset(head); }
  var squares = 0.0;
  for (var d = 0u; d < op.keyDim; d++) { squares += convolved[at + d] * convolved[at + d]; }
  let factor = 1.0 / sqrt(squares + NORM_EPS);
  let gates = row * op.mixedStride + gateIndex(head);
  if (isKey) {
    kFactors[i] = factor;
    logAlpha[i] = a[head] * softplus(mixed[gates + op.aOffset] + dtBias[head]);
  } else {
    qFactors[i] = factor * op.qScale;
    betas[i] = sigmoid(mixed[gates + op.bOffset]);
  }
}

// Sum of logAlpha from `first` up to and without `end`.
fn logDecay(first: u32, end: u32) -> f32 {
  var sum = 0.0;
  for (var i = first; i < end; i++) { sum += logAlpha[i]; }
  return sum;
}

// One entry of L and of attend, from the products of the numbers as they stand.
fn writeEntry(out: u32, i: u32, j: u32, decay: f32, kk: f32, qk: f32) {
  let factor = decay * kFactors[j];
  lower[i * RUN + j] = betas[i] * kFactors[i] * factor * kk;
  if (j <= i) { runs[out + ATTEND + i * RUN + j] = qFactors[i] * factor * qk; }
}

// Four entries of a column of a tile: j and the rows from i on.
fn writeColumn(out: u32, i: u32, j: u32, kk: vec4f, qk: vec4f) {
  var sum = logDecay(j + 1u, i + 1u); // of none where j >= i
  writeEntry(out, i, j, exp(sum), kk.x, qk.x);
  if (j < i + 1u) { sum += logAlpha[i + 1u]; }
  writeEntry(out, i + 1u, j, exp(sum), kk.y, qk.y);
  if (j < i + 2u) { sum += logAlpha[i + 2u]; }
  writeEntry(out, i + 2u, j, exp(sum), kk.z, qk.z);
  if (j < i + 3u) { sum += logAlpha[i + 3u]; }
  writeEntry(out, i + 3u, j, exp(sum), kk.w, qk.w);
}

// Where rows i .. i+3 of the run start; rows past the step's end stand for the last one.
fn starts(first: u32, count: u32, i: u32) -> vec4u {
  return (vec4u(first) + min(vec4u(i, i + 1u, i + 2u, i + 3u), vec4u(count - 1u))) * convolvedStride();
}

fn at4(at: vec4u, d: u32) -> vec4f {
  return vec4f(convolved[at.x + d], convolved[at.y + d], convolved[at.z + d], convolved[at.w + d]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let head = wid.y;
  let first = wid.x * RUN;
  let count = min(RUN, step.rows - first);
  let out = (wid.x * op.valueHeads + head) * RUN_FLOATS;

  let own = lid % RUN;
  prepareRow(head, first + min(own, count - 1u), own, lid < RUN);
  workgroupBarrier();

  let i = lid / 8u * 4u;
  let j = lid % 8u * 4u;
  if (j <= i && i < count) {
    let rowsI = starts(first, count, i);
    let rowsJ = starts(first, count, j) + kOffset(head);
    var kk = mat4x4f(); // [j][i]
    var qk = mat4x4f();
    for (var d = 0u; d < op.keyDim; d++) {
      let ki = at4(rowsI + kOffset(head), d);
      let qi = at4(rowsI + qOffset(head), d);
      let kj = at4(rowsJ, d);
      kk += mat4x4f(kj.x * ki, kj.y * ki, kj.z * ki, kj.w * ki);
      qk += mat4x4f(kj.x * qi, kj.y * qi, kj.z * qi, kj.w * qi);
    }
    writeColumn(out, i, j, kk[0], qk[0]);
    writeColumn(out, i, j + 1u, kk[1], qk[1]);
    writeColumn(out, i, j + 2u, kk[2], qk[2]);
    writeColumn(out, i, j + 3u, kk[3], qk[3]);
  }
  workgroupBarrier();

  if (lid >= count) { return; }
  inverse[lid * RUN + lid] = 1.0;
  runs[out + lid * RUN + lid] = betas[lid];
  for (var r = lid + 1u; r < count; r++) {
    var sum = 0.0;
    for (var m = lid; m < r; m++) { sum += lower[r * RUN + m] * inverse[m * RUN + lid]; }
    inverse[r * RUN + lid] = -sum;
    runs[out + r * RUN + lid] = -sum * betas[lid];
  }
  let entering = exp(logDecay(0u, lid + 1u));
  runs[out + ENTER + lid] = entering * kFactors[lid];
  runs[out + READ + lid] = entering * qFactors[lid];
  runs[out + LEAVE + lid] = exp(logDecay(lid + 1u, count)) * kFactors[lid];
  if (lid == count - 1u) { runs[out + PASS] = entering; }
}
