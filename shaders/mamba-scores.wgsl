// Mamba-2, chunk form, 2 of 4: what the rows of a chunk give to each other.
//   weights[head][j][i] = (C_i . B_j) exp(sum_i - sum_j) dt_j for j <= i, else 0
//
// convolved as in lib/mamba-rows; scratch as in lib/mamba: sums and widths are read, weights written.
// Needs lib/step, lib/mamba, lib/mamba-rows, lib/mamba-fours. Grid: x = CHUNK / 4, y = chunks, z = groups. CHUNK invocations a workgroup:
// each owns a row i and four rows j, whose C.B all heads of the group share. Workgroup memory: none.
// Exponents are differences of sums that never rise, so they are <= 0 where j <= i, and are clamped elsewhere.
// Float order: C.B over the entries in fours in rising order.

@group(0) @binding(3) var<storage, read_write> scratch: array<f32>;

// Rows past the step stand for its last one; what comes of them is not used.
fn rowAt(row: u32) -> u32 { return min(row, step.rows - 1u); }

@compute @workgroup_size(CHUNK)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) i: u32) {
  let chunk = wid.y;
  let group = wid.z;
  let first = chunk * CHUNK;
  let j = wid.x * 4u;
  if (first + j >= step.rows || (i | (SPAN - 1u)) < j) { return; }

  let outs = outAt(rowAt(first + i), group);
  let ins = vec4u(
    inAt(first + j, group),
    inAt(rowAt(first + j + 1u), group),
    inAt(rowAt(first + j + 2u), group),
    inAt(rowAt(first + j + 3u), group),
  );
  var products = vec4f();
  for (var n = 0u; n < op.stateSize; n += 4u) {
    let c = four(outs, n, op.stateSize);
    products += vec4f(
      dot(c, four(ins.x, n, op.stateSize)),
      dot(c, four(ins.y, n, op.stateSize)),
      dot(c, four(ins.z, n, op.stateSize)),
      dot(c, four(ins.w, n, op.stateSize)),
    );
  }
  let own = rowAt(first + i) - first;
  let others = vec4u(j, rowAt(first + j + 1u) - first, rowAt(first + j + 2u) - first, rowAt(first + j + 3u) - first);
  let seen = j + vec4u(0u, 1u, 2u, 3u) <= vec4u(i);

  let heads = op.heads / op.groups;
  for (var head = group * heads; head < (group + 1u) * heads; head++) {
    let sums = sumsAt(chunk) + head;
    let at = sums + others * op.heads;
    let spans = scratch[sums + own * op.heads] - vec4f(scratch[at.x], scratch[at.y], scratch[at.z], scratch[at.w]);
    let wide = widthsAt(chunk) + head + others * op.heads;
    let widths = vec4f(scratch[wide.x], scratch[wide.y], scratch[wide.z], scratch[wide.w]);
    let weights = select(vec4f(), products * exp(min(spans, vec4f())) * widths, seen);
    let place = weightsAt(chunk) + (head * CHUNK + j) * CHUNK + i;
    scratch[place] = weights.x;
    scratch[place + CHUNK] = weights.y;
    scratch[place + 2u * CHUNK] = weights.z;
    scratch[place + 3u * CHUNK] = weights.w;
  }
}
