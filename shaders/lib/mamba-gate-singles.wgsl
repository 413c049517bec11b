// What mamba-gate moves at a time: one column. Twin of mamba-gate-fours.wgsl.

const SPAN_COLUMNS = 1u;

alias columns_t = f32;
alias out_columns_t = elem;

fn boundedColumns(value: columns_t, limit: f32) -> columns_t { return bounded(value, limit); }
fn sumOfSquares(value: columns_t) -> f32 { return value * value; }
