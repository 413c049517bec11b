// The step's data, group 1, the same for every op of a step. Written once a step by the runner (packStep of
// src/model/step.ts), in one buffer of words, so that no kernel needs more than the eight storage buffers a stage that
// WebGPU promises.
//
// stepWords, one section behind the other:
//   rows [step.rows]: token, position, sequence, write, one entry a token of the step. A prefill step has consecutive
//     positions of one sequence (number 0); a decode step has one row a sequence (row r is sequence r).
//   block tables [step.sequences][step.tableStride]: slots in the KV pool; entries past a sequence's last block are not
//     read. The last two words of a sequence are the slots of the state pool that its recurrent layers read and write:
//     never the same.
//   logit rows [step.logitRows]: the rows whose logits are wanted.
//   RoPE tables [table][step.rows][rot/2 of the table]: (cos, sin) as f32, computed on the host in float64.

struct Step {
  rows: u32,
  sequences: u32,
  tableStride: u32,
  logitRows: u32,
}

const ROW_WORDS = 4u;
const NO_STATE = 0xffffffffu; // read: nothing came before, the state is zero

@group(1) @binding(0) var<uniform> step: Step;
@group(1) @binding(1) var<storage, read> stepWords: array<u32>;

// Index into the token buffer that the embedding op reads.
fn rowToken(row: u32) -> u32 { return stepWords[ROW_WORDS * row]; }
// Token position in the row's sequence.
fn rowPosition(row: u32) -> u32 { return stepWords[ROW_WORDS * row + 1u]; }
// Number of the row's sequence, and so of its block table.
fn rowSequence(row: u32) -> u32 { return stepWords[ROW_WORDS * row + 2u]; }
// KV place of the row's token: slot * blockTokens + offset in the block; with packed slots, in the block's tail.
fn rowWrite(row: u32) -> u32 { return stepWords[ROW_WORDS * row + 3u]; }

fn tableWord(index: u32) -> u32 { return stepWords[ROW_WORDS * step.rows + index]; }
fn stateRead(sequence: u32) -> u32 { return tableWord((sequence + 1u) * step.tableStride - 2u); }
fn stateWrite(sequence: u32) -> u32 { return tableWord((sequence + 1u) * step.tableStride - 1u); }

// The row that the logits of this number are of.
fn logitRow(index: u32) -> u32 { return tableWord(step.sequences * step.tableStride + index); }

// The (cos, sin) of this index into the RoPE tables.
fn ropeTurn(index: u32) -> vec2f {
  let at = ROW_WORDS * step.rows + step.sequences * step.tableStride + step.logitRows + 2u * index;
  return vec2f(bitcast<f32>(stepWords[at]), bitcast<f32>(stepWords[at + 1u]));
}
