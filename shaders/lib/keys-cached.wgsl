// Keys and values of attention-prefill.wgsl in the KV cache, of one sequence: a query sees its own position and those before
// it, or the last op.window of them.
//
// keys and values kv_t [slot][KV_HEADS][BLOCK_TOKENS][4*HEAD4], holding every position up to the last row's. With packed blocks
// (lib/blocks-packed) they hold the rows' own blocks alone, in the tails that rowWrite names, and a query sees the blocks before its
// own one packed: what it sees depends on its position, and not on how the prompt was cut into steps. Four keys from a multiple of 4 on
// lie in one block. Same functions as keys-in-rows.wgsl.

override BLOCK_TOKENS: u32;
override KEY_STRIDE: u32 = HEAD4; // vec4s from a key to the next

// The first row of the sequence that the workgroups of z = `number` compute, and how many rows it has.
fn sequenceRows(number: u32) -> vec2u { return vec2u(0u, step.rows); }

// The first position that a row sees, packed or exact, and the one behind the last. `count`: rows of its sequence.
fn seenBy(row: u32, count: u32, isPacked: bool) -> vec2u {
  let position = rowPosition(row);
  var first = 0u;
  if (op.window > 0u) { first = max(position + 1u, op.window) - op.window; }
  if (!PACKED) { return vec2u(first, position + 1u); }
  let own = position - position % BLOCK_TOKENS;
  if (isPacked) { return vec2u(min(first, own), own); }
  return vec2u(max(first, own), position + 1u);
}

// What keyPlace, valuePlace and keySlot need of a workgroup's queries, which are in two blocks at most.
struct KeyTable {
  words: u32,
  firstBlock: u32,
  tails: vec2u, // of the first block, and of the one behind it
}

fn keyTable(firstRow: u32, lastRow: u32, start: u32) -> KeyTable {
  let tails = vec2u(rowWrite(firstRow), rowWrite(lastRow)) / BLOCK_TOKENS;
  return KeyTable(rowSequence(firstRow) * step.tableStride, rowPosition(firstRow) / BLOCK_TOKENS, tails);
}

fn keySlot(table: KeyTable, position: u32) -> u32 { return tableWord(table.words + position / BLOCK_TOKENS); }

// Where the exact key of this position starts.
fn keyPlace(table: KeyTable, kvHead: u32, position: u32) -> u32 {
  var block = 0u;
  if (PACKED) {
    block = select(table.tails.y, table.tails.x, position / BLOCK_TOKENS == table.firstBlock);
  } else {
    block = keySlot(table, position);
  }
  return ((block * KV_HEADS + kvHead) * BLOCK_TOKENS + position % BLOCK_TOKENS) * HEAD4;
}

fn valuePlace(table: KeyTable, kvHead: u32, position: u32) -> u32 { return keyPlace(table, kvHead, position); }
