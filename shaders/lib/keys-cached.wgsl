// Keys and values of attention-prefill.wgsl in the KV cache, of one sequence: a query sees its own position and those before
// it, or the last op.window of them.
//
// keys and values kv_t [slot][KV_HEADS][BLOCK_TOKENS][4*HEAD4], holding every position up to the last row's. Four keys from a
// multiple of 4 on lie in one block. Same functions as keys-in-rows.wgsl.

override BLOCK_TOKENS: u32;
override KEY_STRIDE: u32 = HEAD4; // vec4s from a key to the next

// The first row of the sequence that the workgroups of z = `number` compute, and how many rows it has.
fn sequenceRows(number: u32) -> vec2u { return vec2u(0u, step.rows); }

// The first and the last position that a row sees. `count`: rows of its sequence.
fn seenBy(row: u32, count: u32) -> vec2u {
  let position = rowPosition(row);
  if (op.window == 0u) { return vec2u(0u, position); }
  return vec2u(max(position + 1u, op.window) - op.window, position);
}

// What keyPlace and valuePlace need of a sequence.
fn keyTable(firstRow: u32) -> u32 { return rowSequence(firstRow) * step.tableStride; }

// Where the key of this position starts.
fn keyPlace(table: u32, kvHead: u32, position: u32) -> u32 {
  let slot = tableWord(table + position / BLOCK_TOKENS);
  return ((slot * KV_HEADS + kvHead) * BLOCK_TOKENS + position % BLOCK_TOKENS) * HEAD4;
}

fn valuePlace(table: u32, kvHead: u32, position: u32) -> u32 { return keyPlace(table, kvHead, position); }
