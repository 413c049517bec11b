// Copies rows of a weight matrix of any format as Q2_K (lib/format-q2_k.wgsl): 256 columns are 16 groups of 16 values, each
// scale * (0 .. 3) - minimum. Of a few ranges inside that of a group's values, each bettered by least squares, the one with the
// least squared error is taken; then scales and minima are rounded to 4 bits of the tile's largest, and the values to those.
//
// Bindings: weights: rows in panels of 16, with the zero rows that fill the last one up; copy: a piece in panels, as words;
// errors: for each row and tile what was done so far is added up: squared errors, and squared values.
// Needs lib/bounded, lib/format-unit and a format. Grid: x = rows / WG rounded up, y = tiles of the copy. No workgroup memory.
// A tile with a value that is not finite decodes to NaN.

override WG: u32 = 32u;

const TILE_WORDS = 336u; // of 16 rows
const HALF_LIMIT = 65504.0; // the largest finite f16
const HALF_NANS = 0x7e007e00u;
const RANGES = 5u;

struct Op {
  rows: u32,
  units: u32, // units of 32 columns in a row of weights
  tiles: u32, // tiles in a row of weights
  copyTiles: u32,
  firstRow: u32, // the piece's row for row 0; it wraps below 0 where that lies in another piece
  pieceRows: u32,
}

@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> copy: array<u32>;
@group(0) @binding(3) var<storage, read_write> errors: array<vec2f>;

var<private> group: array<vec4f, 4>; // 16 values

fn sumOf(x: vec4f) -> f32 {
  return (x.x + x.y) + (x.z + x.w);
}

fn isBroken(x: vec4f) -> bool {
  return any((bitcast<vec4u>(x) & vec4u(EXPONENT_BITS)) == vec4u(EXPONENT_BITS));
}

// Takes half `h` of a unit. Whether all of it is finite.
fn takeGroup(unit: Unit, h: u32) -> bool {
  let isFirst = h == 0u;
  group[0] = select(unit.w4, unit.w0, isFirst);
  group[1] = select(unit.w5, unit.w1, isFirst);
  group[2] = select(unit.w6, unit.w2, isFirst);
  group[3] = select(unit.w7, unit.w3, isFirst);
  return !(isBroken(group[0]) || isBroken(group[1]) || isBroken(group[2]) || isBroken(group[3]));
}

// The values as whole numbers from 0 to 3.
fn levels(x: vec4f, scale: f32, low: f32) -> vec4f {
  let q = round((x - low) / select(1.0, scale, scale > 0.0));
  return select(vec4f(0.0), min(max(q, vec4f(0.0)), vec4f(3.0)), scale > 0.0);
}

fn errorOf(scale: f32, low: f32) -> f32 {
  var sum = vec4f(0.0);
  for (var i = 0u; i < 4u; i++) {
    let off = group[i] - (levels(group[i], scale, low) * scale + low);
    sum += off * off;
  }
  return sumOf(sum);
}

// Scale and lowest value (at most 0) of the line through levels that has the least squared error.
fn lineThrough(scale: f32, low: f32) -> vec2f {
  var q1 = 0.0;
  var q2 = 0.0;
  var x1 = 0.0;
  var qx = 0.0;
  for (var i = 0u; i < 4u; i++) {
    let q = levels(group[i], scale, low);
    q1 += sumOf(q);
    q2 += dot(q, q);
    x1 += sumOf(group[i]);
    qx += dot(q, group[i]);
  }
  let spread = 16.0 * q2 - q1 * q1;
  if (spread <= 0.0) {
    return vec2f(scale, low);
  }
  let slope = (16.0 * qx - q1 * x1) / spread;
  let start = (x1 - slope * q1) / 16.0;
  if (start <= 0.0) {
    return vec2f(max(slope, 0.0), start);
  }
  return vec2f(max(qx / q2, 0.0), 0.0);
}

fn fit() -> vec2f {
  let least = min(min(group[0], group[1]), min(group[2], group[3]));
  let most = max(max(group[0], group[1]), max(group[2], group[3]));
  let low = min(0.0, min(min(least.x, least.y), min(least.z, least.w)));
  let high = max(low, max(max(most.x, most.y), max(most.z, most.w)));
  var best = vec2f((high - low) / 3.0, low);
  var bestError = errorOf(best.x, best.y);
  for (var i = 0u; i < RANGES; i++) {
    let share = 1.0 - 0.1 * f32(i);
    let inner = min(0.0, 0.5 * (low + high) - 0.5 * share * (high - low));
    let line = lineThrough(share * (high - low) / 3.0, inner);
    let error = errorOf(line.x, line.y);
    if (error < bestError) {
      best = line;
      bestError = error;
    }
  }
  return best;
}

fn fourBits(x: f32, step: f32) -> u32 {
  return u32(min(round(x / select(1.0, step, step > 0.0)), 15.0)) * u32(step > 0.0);
}

fn bytesOf(q: vec4f) -> u32 {
  let bytes = vec4u(q) << vec4u(0u, 8u, 16u, 24u);
  return bytes.x | bytes.y | bytes.z | bytes.w;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  let at = op.firstRow + row;
  if (row >= op.rows || at >= op.pieceRows) {
    return;
  }
  let firstUnit = id.y * 8u;
  let count = min(8u, op.units - firstUnit);
  var scales: array<f32, 16>;
  var lows: array<f32, 16>;
  var largest = vec2f(0.0);
  var isWhole = true;
  for (var g = 0u; g < 2u * count; g++) {
    isWhole = takeGroup(decodeUnit(row, firstUnit + g / 2u, op.tiles), g % 2u) && isWhole;
    let found = fit();
    scales[g] = found.x;
    lows[g] = found.y;
    largest = max(largest, vec2f(found.x, -found.y));
  }
  // What decodes it must see the same steps: a driver may take unpack2x16float(pack2x16float(x)) for x, but not through a select.
  let packed = select(HALF_NANS, pack2x16float(min(largest / 15.0, vec2f(HALF_LIMIT))), isWhole);
  let steps = unpack2x16float(packed);
  var words: array<u32, 20>; // 16 of values, 4 of scales
  var off = 0.0;
  var size = 0.0;
  for (var g = 0u; g < 2u * count; g++) {
    let u = g / 2u;
    _ = takeGroup(decodeUnit(row, firstUnit + u, op.tiles), g % 2u);
    let scale = fourBits(scales[g], steps.x);
    let minimum = fourBits(-lows[g], steps.y);
    words[16u + u / 2u] |= (scale | (minimum << 4u)) << (8u * (g % 4u));
    let slope = steps.x * f32(scale);
    let low = -steps.y * f32(minimum);
    for (var i = 0u; i < 4u; i++) {
      words[(u / 4u) * 8u + (g % 2u) * 4u + i] |= bytesOf(levels(group[i], slope, low)) << (2u * (u % 4u));
      size += dot(group[i], group[i]);
    }
    off += errorOf(slope, low);
  }
  let panel = ((at / 16u) * op.copyTiles + id.y) * TILE_WORDS;
  let lane = at % 16u;
  for (var i = 0u; i < 20u; i++) {
    copy[panel + ((i / 4u) * 16u + lane) * 4u + i % 4u] = words[i];
  }
  copy[panel + 320u + lane] = packed;
  if (isWhole) {
    errors[id.y * op.rows + row] += vec2f(off, size);
  }
}
