// What mamba-gate moves at a time: four columns. Every start and width is a multiple of 4. Twin of
// mamba-gate-singles.wgsl.

const SPAN_COLUMNS = 4u;

alias columns_t = vec4f;
alias out_columns_t = vec4<elem>;

fn boundedColumns(value: columns_t, limit: f32) -> columns_t { return bounded4(value, limit); }
fn sumOfSquares(value: columns_t) -> f32 { return dot(value, value); }
