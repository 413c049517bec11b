// Keys and values of attention-prefill.wgsl in the step's own rows, of several whole sequences one behind the other: every
// query sees its whole sequence, or what is at most half of op.window away from it to either side. Nothing is cached.
//
// keys and values are qkv itself, elem [rows, (HEADS + 2*KV_HEADS) * 4*HEAD4]. Positions of a sequence count from 0, and
// logitRow(i) is the last row of sequence i. Same functions as keys-cached.wgsl.

override BLOCK_TOKENS: u32 = 1u; // none
override KEY_STRIDE: u32 = (HEADS + 2u * KV_HEADS) * HEAD4;

fn sequenceRows(number: u32) -> vec2u {
  let last = logitRow(number);
  let position = rowPosition(last);
  return vec2u(last - position, position + 1u);
}

fn seenBy(row: u32, count: u32, isPacked: bool) -> vec2u {
  if (op.window == 0u) { return vec2u(0u, count); }
  let position = rowPosition(row);
  let reach = op.window / 2u;
  return vec2u(max(position, reach) - reach, min(position + reach + 1u, count));
}

struct KeyTable { first: u32 }

fn keyTable(firstRow: u32, lastRow: u32, start: u32) -> KeyTable { return KeyTable(start); }

fn keySlot(table: KeyTable, position: u32) -> u32 { return 0u; }

fn keyPlace(table: KeyTable, kvHead: u32, position: u32) -> u32 {
  return (table.first + position) * KEY_STRIDE + (HEADS + kvHead) * HEAD4;
}

fn valuePlace(table: KeyTable, kvHead: u32, position: u32) -> u32 {
  return keyPlace(table, kvHead, position) + KV_HEADS * HEAD4;
}
