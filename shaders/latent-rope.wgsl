// What latent attention keeps and asks with: the norm of the latent vector in place, and the rotation of the shared key, in place,
// and of each query's last entries, into the place behind its absorbed part. One workgroup a head and row.
//   heads 0 .. HEADS-1: q[row, h, RANK ..] = rotated(raw[row, h, PLAIN ..]);  head HEADS: kept = [norm(latent); rotated(key)]
//
// raw elem [rows, HEADS * (PLAIN + ROT)], q elem [rows, HEADS * (RANK + ROT)], kept elem [rows, RANK + ROT], weight f32 [RANK].
// Pairs (2i, 2i+1), or (i, i + ROT/2) without INTERLEAVED, by the first RoPE table of step.wgsl.
// Needs lib/step, lib/bounded and one of the lib/reduce files (WG). Grid: x = HEADS + 1, y = rows. Workgroup memory: that of
// reduceSum.

override HEADS: u32;
override PLAIN: u32;
override RANK: u32;
override ROT: u32;
override INTERLEAVED: bool;
override LIMIT: f32; // the largest finite number of elem

@group(0) @binding(0) var<uniform> eps: f32;
@group(0) @binding(1) var<storage, read> raw: array<elem>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> q: array<elem>;
@group(0) @binding(4) var<storage, read_write> kept: array<elem>;

fn entries(pair: u32) -> vec2u {
  if (INTERLEAVED) { return vec2u(2u * pair, 2u * pair + 1u); }
  return vec2u(pair, pair + ROT / 2u);
}

fn turned(value: vec2f, row: u32, pair: u32) -> vec2f {
  let turn = ropeTurn(row * (ROT / 2u) + pair);
  return bounded2(vec2f(value.x * turn.x - value.y * turn.y, value.x * turn.y + value.y * turn.x), LIMIT);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
  let row = wid.y;
  if (wid.x < HEADS) {
    let source = (row * HEADS + wid.x) * (PLAIN + ROT) + PLAIN;
    let to = (row * HEADS + wid.x) * (RANK + ROT) + RANK;
    for (var pair = lid; pair < ROT / 2u; pair += WG) {
      let at = entries(pair);
      let value = turned(vec2f(f32(raw[source + at.x]), f32(raw[source + at.y])), row, pair);
      q[to + at.x] = elem(value.x);
      q[to + at.y] = elem(value.y);
    }
    return;
  }
  let base = row * (RANK + ROT);
  var squares = 0.0;
  for (var c = lid; c < RANK; c += WG) {
    let value = f32(kept[base + c]);
    squares += value * value;
  }
  let scale = 1.0 / sqrt(reduceSum(squares, lid) / f32(RANK) + eps);
  for (var c = lid; c < RANK; c += WG) {
    kept[base + c] = elem(bounded(f32(kept[base + c]) * scale * weight[c], LIMIT));
  }
  for (var pair = lid; pair < ROT / 2u; pair += WG) {
    let at = base + RANK + entries(pair);
    let value = turned(vec2f(f32(kept[at.x]), f32(kept[at.y])), row, pair);
    kept[at.x] = elem(value.x);
    kept[at.y] = elem(value.y);
  }
}
