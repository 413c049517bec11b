// The rows that Mamba-2's recurrence reads: f32 [rows, op.convWidth] = X (inner) | B (groups * stateSize) | C (likewise),
// read number by number. Needs lib/mamba.

@group(0) @binding(1) var<storage, read> convolved: array<f32>;

// Where B and C of a row and a group start, and X of a row and a head.
fn inAt(row: u32, group: u32) -> u32 { return row * op.convWidth + inner() + group * op.stateSize; }
fn outAt(row: u32, group: u32) -> u32 { return inAt(row, group) + op.groups * op.stateSize; }
fn xAt(row: u32, head: u32) -> u32 { return row * op.convWidth + head * op.headDim; }

// Entries i to i + 3 of the `count` entries that start at `at`; zeros past their end.
fn singles(at: u32, i: u32, count: u32) -> vec4f {
  let entries = i + vec4u(0u, 1u, 2u, 3u);
  let places = at + min(entries, vec4u(count - 1u));
  let values = vec4f(convolved[places.x], convolved[places.y], convolved[places.z], convolved[places.w]);
  return select(vec4f(), values, entries < vec4u(count));
}
