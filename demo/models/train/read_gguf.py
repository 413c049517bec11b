"""Reads a GGUF file that export.py wrote back into a PyTorch model, so that the shipped file itself can be scored.

What it does not do: it reads the metadata and formats that export.py writes (F32, F16, Q8_0) and no others; the
vocabulary in the file is not used.
"""

import struct

import numpy as np
import torch

import models

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        size = self.take("<Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            element, count = self.take("<I"), self.take("<Q")
            return [self.value(element) for _ in range(count)]
        return self.take(SCALARS[kind])


def values_of(data, offset, kind, shape):
    """float64 values of a tensor, in PyTorch order."""
    count = int(np.prod(shape))
    if kind == 8:
        blocks = np.frombuffer(data, np.uint8, count // 32 * 34, offset).reshape(-1, 34)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float64)
        return (scale * blocks[:, 2:].view(np.int8)).reshape(shape)
    if kind not in (0, 1):
        raise ValueError("tensor type %d is none that export.py writes" % kind)
    return np.frombuffer(data, "<f4" if kind == 0 else "<f2", count, offset).astype(np.float64).reshape(shape)


def read(path):
    """(metadata, tensors by name)."""
    with open(path, "rb") as f:
        data = f.read()
    r = Reader(data)
    magic, version = r.take("4s"), r.take("<I")
    if magic != b"GGUF" or version != 3:
        raise ValueError("%s is not a GGUF file of version 3" % path)
    tensor_count, entry_count = r.take("<Q"), r.take("<Q")
    metadata = {}
    for _ in range(entry_count):
        key = r.text()
        metadata[key] = r.value(r.take("<I"))
    directory = []
    for _ in range(tensor_count):
        name = r.text()
        shape = [r.take("<Q") for _ in range(r.take("<I"))][::-1]
        directory.append((name, shape, r.take("<I"), r.take("<Q")))
    base = -(-r.at // ALIGNMENT) * ALIGNMENT
    return metadata, {name: values_of(data, base + at, kind, shape) for name, shape, kind, at in directory}


def config_of(metadata, tensors):
    """The config of models.Model."""
    arch = metadata["general.architecture"]
    get = lambda key: metadata[arch + "." + key]
    kv = get("attention.head_count_kv")
    c = {
        "arch": arch, "vocab": tensors["token_embd.weight"].shape[0], "d": get("embedding_length"),
        "layers": get("block_count"), "heads": get("attention.head_count"), "head_dim": get("attention.key_length"),
        "kv_heads": max(kv) if isinstance(kv, list) else kv,
        "eps": float("%.6g" % get("attention.layer_norm_rms_epsilon")), "theta": get("rope.freq_base"),
    }  # fmt: skip
    if arch == "lfm2":
        c["attention_layers"] = [i for i, n in enumerate(kv) if n > 0]
        c["conv_width"] = get("shortconv.l_cache")
    if arch == "qwen3moe":
        c.update(experts=get("expert_count"), experts_used=get("expert_used_count"),
                 expert_ff=get("expert_feed_forward_length"))  # fmt: skip
    else:
        c["ff"] = get("feed_forward_length")
    return c


def load_gguf(path):
    """The model in a file, in evaluation mode."""
    metadata, tensors = read(path)
    model = models.Model(config_of(metadata, tensors))
    with torch.no_grad():
        for name, tensor, _ in model.gguf_tensors():
            tensor.copy_(torch.from_numpy(tensors.pop(name)).view_as(tensor))
    if tensors:
        raise ValueError("%s has tensors that the model lacks: %s" % (path, ", ".join(sorted(tensors))))
    return model.eval()
