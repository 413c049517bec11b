// The choices of a step's rows sorted by expert, and the tiles of at most HEIGHT choices of one expert that a product takes.
//
// chosen u32 [rows, CHOSEN]: below EXPERTS. order u32 [rows * CHOSEN]: numbers of choices (row * CHOSEN + place), expert by
// expert, in no certain order within one, which no result depends on. tiles: how many; then (expert, first, end, 0) of each.
// One workgroup. Workgroup memory: 8 * EXPERTS bytes.

override WG: u32 = 256u;
override EXPERTS: u32;
override CHOSEN: u32;
override HEIGHT: u32;

@group(0) @binding(0) var<storage, read> chosen: array<u32>;
@group(0) @binding(1) var<storage, read_write> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4u>;

var<workgroup> counts: array<atomic<u32>, EXPERTS>;
var<workgroup> places: array<atomic<u32>, EXPERTS>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lid: u32) {
  let choices = step.rows * CHOSEN;
  for (var expert = lid; expert < EXPERTS; expert += WG) {
    atomicStore(&counts[expert], 0u);
  }
  workgroupBarrier();
  for (var choice = lid; choice < choices; choice += WG) {
    atomicAdd(&counts[chosen[choice]], 1u);
  }
  workgroupBarrier();
  for (var expert = lid; expert < EXPERTS; expert += WG) {
    var first = 0u;
    var tile = 0u;
    for (var other = 0u; other < expert; other++) {
      let count = atomicLoad(&counts[other]);
      first += count;
      tile += (count + HEIGHT - 1u) / HEIGHT;
    }
    atomicStore(&places[expert], first);
    let end = first + atomicLoad(&counts[expert]);
    for (; first < end; first += HEIGHT) {
      tile += 1u;
      tiles[tile] = vec4u(expert, first, min(first + HEIGHT, end), 0u);
    }
    if (expert == EXPERTS - 1u) {
      tiles[0] = vec4u(tile, 0u, 0u, 0u);
    }
  }
  workgroupBarrier();
  for (var choice = lid; choice < choices; choice += WG) {
    order[atomicAdd(&places[chosen[choice]], 1u)] = choice;
  }
}
