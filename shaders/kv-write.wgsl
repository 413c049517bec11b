// Copies the k and (VALUES) v parts of the rows into the paged KV buffers of a layer, at rowWrite.
//
// qkv elem [rows, 4*ROW4]: from KEY4 on the k heads, behind them the v heads; keys and values kv_t [slot][KV_HEADS][BLOCK_TOKENS][4*HEAD4].
// rowWrite = slot * BLOCK_TOKENS + offset in the block; every row writes a place of its own.
// Needs lib/step and lib/bounded. Grid: x = KV_HEADS * HEAD4 / WG rounded up, y = rows. No workgroup memory, no sums.
// What does not fit into kv_t becomes its largest finite number (LIMIT).

override WG: u32 = 64u;
override ROW4: u32;
override KEY4: u32;
override VALUES: bool = true;
override KV_HEADS: u32;
override HEAD4: u32;
override BLOCK_TOKENS: u32;
override LIMIT: f32;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<elem>>;
@group(0) @binding(1) var<storage, read_write> keys: array<vec4<kv_t>>;
@group(0) @binding(2) var<storage, read_write> values: array<vec4<kv_t>>;

fn stored(value: vec4<elem>) -> vec4<kv_t> {
  return vec4<kv_t>(bounded4(vec4f(value), LIMIT));
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let part = KV_HEADS * HEAD4;
  if (id.x >= part) { return; }
  let row = id.y;
  let place = rowWrite(row);
  let head = id.x / HEAD4;
  let to = (((place / BLOCK_TOKENS) * KV_HEADS + head) * BLOCK_TOKENS + place % BLOCK_TOKENS) * HEAD4 + id.x % HEAD4;
  let source = row * ROW4 + KEY4 + id.x;
  keys[to] = stored(qkv[source]);
  if (VALUES) { values[to] = stored(qkv[source + part]); }
}
