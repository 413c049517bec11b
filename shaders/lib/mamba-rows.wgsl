// The rows that Mamba-2's recurrence reads: f32 [rows, op.convWidth] = X (inner) | B (groups * stateSize) | C (likewise),
// read number by number. Needs lib/mamba.

@group(0) @binding(1) var<storage, read> convolved: array<f32>;

// Where B and C of a row and a group start.
fn inAt(row: u32, group: u32) -> u32 { return row * op.convWidth + inner() + group * op.stateSize; }
fn outAt(row: u32, group: u32) -> u32 { return inAt(row, group) + op.groups * op.stateSize; }

// Entries n to n + 3 of the B or C that starts at `at`; zeros past its end.
fn singles(at: u32, n: u32) -> vec4f {
  let last = op.stateSize - 1u;
  let entries = n + vec4u(0u, 1u, 2u, 3u);
  let places = at + min(entries, vec4u(last));
  let values = vec4f(convolved[places.x], convolved[places.y], convolved[places.z], convolved[places.w]);
  return select(vec4f(), values, entries <= vec4u(last));
}
