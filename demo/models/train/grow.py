"""Starts a model from a smaller trained one of the same kind, as the same function.

What this is: the residual stream, the heads and the feed-forward get wider. Old weights keep their places; a new part
that reads starts as noise of the old weights' size, a new part that writes starts at zero, and the weights of the norms
make up for the larger width. So the first step computes what the old model computed, and the new part can learn.
What it does not do: it adds no layers, and it splits no feed-forward into experts (see upcycle in train.py).
"""

import torch

import read_gguf

WIDENED = ("d", "ff", "heads")


def noise_like(old, shape, generator):
    return torch.randn(shape, generator=generator) * old.std()


def places(old_groups, new_groups, size):
    """Where the rows of each old group stand among the new ones: groups of `size` rows, spread evenly."""
    step = new_groups // old_groups
    return torch.cat([torch.arange(size) + i * step * size for i in range(old_groups)])


def widened(old, shape, rows, columns, generator, reads):
    """`old` put at [rows, columns] of a larger matrix. A matrix that reads the stream has noise in the new columns; one
    that writes to it has zeros in the new rows and in the columns of new inputs."""
    new = noise_like(old, shape, generator) if reads else torch.zeros(shape)
    new[rows[:, None], columns[None]] = old
    return new


def plan(name, old, new, head_dim, heads):
    """(rows, columns, reads) of one matrix."""
    ends = torch.arange(old.shape[0]), torch.arange(old.shape[1])
    if name.endswith("attn_q.weight"):
        return places(*heads, head_dim), ends[1], True
    if name.endswith("attn_output.weight"):
        return ends[0], places(*heads, head_dim), False
    if name.endswith("in_proj.weight"):
        return thirds(old.shape[0], new.shape[0]), ends[1], True
    writes = name.endswith(("out_proj.weight", "ffn_down.weight", "token_embd.weight"))
    return *ends, not writes


def thirds(old, new):
    """Rows of the three stacked parts of a convolution's first projection."""
    return torch.cat([torch.arange(old // 3) + i * (new // 3) for i in range(3)])


def grown(name, old, new, c, old_c, generator):
    """The starting value of one tensor of the larger model."""
    if old.shape == new.shape:
        return old
    if old.dim() == 1:
        scaled = old * (old_c["d"] / c["d"]) ** 0.5
        return torch.cat([scaled, scaled.mean().expand(new.shape[0] - old.shape[0])])
    if name.endswith("mixer.conv"):
        return torch.cat([old, new[old.shape[0] :]])
    rows, columns, reads = plan(name, old, new, c["head_dim"], (old_c["heads"], c["heads"]))
    return widened(old, new.shape, rows, columns, generator, reads)


@torch.no_grad()
def start_from(model, path, seed):
    """Fills `model` from a GGUF file of the same kind whose width, feed-forward or heads may be smaller."""
    source = read_gguf.load_gguf(path)
    for key, value in source.config.items():
        if key not in WIDENED and model.config[key] != value:
            raise ValueError("%s: %s is %s in the file and %s in the configuration" % (path, key, value, model.config[key]))
    generator = torch.Generator().manual_seed(seed)
    old = source.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.copy_(grown(name, old[name], tensor, model.config, source.config, generator))
