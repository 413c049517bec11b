// The step's data, group 1, the same for every op of a step. Written once a step by the runner.
//
// rows: one entry a token of the step. A prefill step has consecutive positions of one sequence (number 0); a decode
//   step has one row a sequence (row r is sequence r).
// blockTable: [sequences][tableStride] slots in the KV pool; entries past a sequence's last block are not read. The last
//   two words of a sequence are the slots of the state pool that its recurrent layers read and write: never the same.
// ropeTable: [table][rows][rot/2] (cos, sin), computed on the host in float64.
// logitRow: the rows whose logits are wanted, [logitRows].

struct Step {
  rows: u32,
  sequences: u32,
  tableStride: u32,
  logitRows: u32,
}

struct Row {
  token: u32, // index into the token buffer that the embedding op reads
  position: u32, // token position in its sequence
  sequence: u32, // index of its block table
  write: u32, // KV place of this token: slot * blockTokens + offset in the block
}

@group(1) @binding(0) var<uniform> step: Step;
@group(1) @binding(1) var<storage, read> rows: array<Row>;
@group(1) @binding(2) var<storage, read> blockTable: array<u32>;
@group(1) @binding(3) var<storage, read> ropeTable: array<vec2f>;
@group(1) @binding(4) var<storage, read> logitRow: array<u32>;

const NO_STATE = 0xffffffffu; // read: nothing came before, the state is zero

fn stateRead(sequence: u32) -> u32 { return blockTable[(sequence + 1u) * step.tableStride - 2u]; }
fn stateWrite(sequence: u32) -> u32 { return blockTable[(sequence + 1u) * step.tableStride - 1u]; }
