"""Writes a checkpoint as GGUF v3, and the expected logits that an engine is compared with.

  export.py CHECKPOINT --name tide-dense --out FILE.gguf [--type q8_0|f16]     the shipped file
            [--golden FOLDER]      FOLDER/NAME.json (+ NAME.logits.f32): logits of the shipped (dequantised) weights
  export.py CHECKPOINT --name tide-dense --f32 FOLDER       FOLDER/model.gguf in float32, golden.json, logits.f32

What it does not do: it trains nothing and reads no GGUF.
"""

import argparse
import json
import os
import struct
import sys

import numpy as np
import torch

import evalset
import models
import tokenizer
from train import HERE, load_model

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
FILE_TYPE = {"f32": 0, "f16": 1, "q8_0": 7}
ALIGNMENT = 32
GOLDEN_TOKENS = 200
TITLES = {
    "tide-dense": "Tide Dense",
    "tide-hybrid": "Tide Hybrid",
    "tide-moe": "Tide MoE",
}


# ---- tensor formats ----------------------------------------------------------------------------------------------
def q8_0(array):
    """Rows of 32 as one f16 scale and 32 signed bytes. Returns (bytes, the values that a reader gets back)."""
    blocks = array.reshape(-1, 32).astype(np.float32)
    scale = np.abs(blocks).max(1) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    quants = np.rint(blocks * inverse[:, None]).clip(-127, 127).astype(np.int8)
    half = scale.astype(np.float16)
    packed = np.empty((len(blocks), 34), np.uint8)
    packed[:, :2] = half.view(np.uint8).reshape(-1, 2)
    packed[:, 2:] = quants.view(np.uint8)
    back = half.astype(np.float64)[:, None] * quants
    return packed.tobytes(), back.reshape(array.shape)


def pack(array, kind):
    """(bytes, values read back) of one tensor."""
    if kind == "q8_0":
        if array.shape[-1] % 32:
            raise ValueError("row length %d is not a multiple of 32" % array.shape[-1])
        return q8_0(array)
    cast = array.astype(np.float16 if kind == "f16" else np.float32)
    return cast.tobytes(), cast.astype(np.float64)


# ---- the file ----------------------------------------------------------------------------------------------------
def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    if kind == STRING:
        return text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def entry(key, kind, value, element=None):
    head = text(key) + struct.pack("<I", kind)
    if kind != ARRAY:
        return head + scalar(kind, value)
    return head + struct.pack("<IQ", element, len(value)) + b"".join(scalar(element, v) for v in value)


def write_gguf(path, metadata, tensors):
    """metadata: entries as bytes. tensors: (name, shape in PyTorch order, type name, bytes)."""
    directory, offset = [], 0
    for name, shape, kind, data in tensors:
        ne = list(reversed(shape))
        directory.append(text(name) + struct.pack("<I%dQIQ" % len(ne), len(ne), *ne, TYPES[kind], offset))
        offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + b"".join(directory)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for _, _, _, data in tensors:
            f.write(data + b"\0" * (-len(data) % ALIGNMENT))


def architecture_entries(c, context):
    arch = c["arch"]
    kv = c["kv_heads"]
    out = [
        entry(arch + ".vocab_size", U32, c["vocab"]),
        entry(arch + ".context_length", U32, context),
        entry(arch + ".embedding_length", U32, c["d"]),
        entry(arch + ".block_count", U32, c["layers"]),
        entry(arch + ".attention.head_count", U32, c["heads"]),
        entry(arch + ".attention.layer_norm_rms_epsilon", F32, c["eps"]),
        entry(arch + ".rope.freq_base", F32, c["theta"]),
        entry(arch + ".rope.dimension_count", U32, c["head_dim"]),
        entry(arch + ".attention.key_length", U32, c["head_dim"]),
        entry(arch + ".attention.value_length", U32, c["head_dim"]),
    ]
    if arch == "lfm2":
        per_layer = [kv if i in c["attention_layers"] else 0 for i in range(c["layers"])]
        out.append(entry(arch + ".attention.head_count_kv", ARRAY, per_layer, I32))
        out.append(entry(arch + ".shortconv.l_cache", U32, c["conv_width"]))
    else:
        out.append(entry(arch + ".attention.head_count_kv", U32, kv))
    if arch == "qwen3moe":
        out.append(entry(arch + ".feed_forward_length", U32, c["expert_ff"] * c["experts_used"]))
        out.append(entry(arch + ".expert_count", U32, c["experts"]))
        out.append(entry(arch + ".expert_used_count", U32, c["experts_used"]))
        out.append(entry(arch + ".expert_feed_forward_length", U32, c["expert_ff"]))
    else:
        out.append(entry(arch + ".feed_forward_length", U32, c["ff"]))
    return out


def tokenizer_entries(tok):
    types = [3 if t in tokenizer.SPECIALS else 1 for t in tok.tokens]
    return [
        entry("tokenizer.ggml.model", STRING, "gpt2"),
        entry("tokenizer.ggml.pre", STRING, "qwen2"),
        entry("tokenizer.ggml.tokens", ARRAY, tok.tokens, STRING),
        entry("tokenizer.ggml.token_type", ARRAY, types, I32),
        entry("tokenizer.ggml.merges", ARRAY, [" ".join(m) for m in tok.merges], STRING),
        entry("tokenizer.ggml.eos_token_id", U32, tok.eos),
        entry("tokenizer.ggml.eot_token_id", U32, tok.im_end),
        entry("tokenizer.ggml.padding_token_id", U32, tok.eos),
        entry("tokenizer.ggml.add_bos_token", BOOL, False),
        entry("tokenizer.ggml.add_eos_token", BOOL, False),
        entry("tokenizer.chat_template", STRING, tokenizer.CHAT_TEMPLATE),
    ]


def export(model, tok, name, path, kind, context):
    """Writes the file; returns a state dict with the values that a reader of the file gets (float64)."""
    c = model.config
    tensors, back = [], []
    for tensor_name, tensor, role in model.gguf_tensors():
        kind_here = kind if role == "matrix" else "f32"
        data, values = pack(tensor.detach().cpu().numpy(), kind_here)
        tensors.append((tensor_name, tuple(tensor.shape), kind_here, data))
        back.append((tensor, values))
    metadata = [
        entry("general.architecture", STRING, c["arch"]),
        entry("general.type", STRING, "model"),
        entry("general.name", STRING, TITLES.get(name, name)),
        entry("general.basename", STRING, name),
        entry("general.description", STRING, "Small model of a generated harbour world, trained by the Tidepool project"),
        entry("general.license", STRING, "apache-2.0"),
        entry("general.languages", ARRAY, ["en"], STRING),
        entry("general.file_type", U32, FILE_TYPE[kind]),
        entry("general.quantization_version", U32, 2),
        *architecture_entries(c, context),
        *tokenizer_entries(tok),
    ]
    write_gguf(path, metadata, tensors)
    return back


# ---- expected logits ------------------------------------------------------------------------------------------------
def golden_ids(tok):
    """200 ids: a chat turn and a needle of the evaluation side, so that all kinds of tokens occur."""
    prompt, answer = evalset.needle(tok, "golden", 100)
    chat = evalset.chat_prompt([("system", "You are Tide."), ("user", "Who are you?")])
    return (tok.encode(chat + "I am Tide.<|im_end|>\n" + prompt + " " + answer + "\n<|endoftext|>") * 2)[:GOLDEN_TOKENS]


@torch.no_grad()
def logits_with(model, back, ids):
    """float64 logits of the model with the values `back` in place of its weights."""
    model = model.double()
    for tensor, values in back:
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)).view_as(tensor))
    return model(torch.tensor([ids]))[0].numpy()


def write_golden(folder, stem, logits_name, model, back, ids, extra):
    logits = logits_with(model, back, ids)
    os.makedirs(folder, exist_ok=True)
    logits.astype("<f4").tofile(os.path.join(folder, logits_name))
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    top = [[[int(i), round(float(logits[t, i]), 6)] for i in row] for t, row in enumerate(order)]
    chosen = [float(np.log(np.exp(logits[t] - logits[t].max()).sum()) + logits[t].max() - logits[t, ids[t + 1]])
              for t in range(len(ids) - 1)]  # fmt: skip
    data = {
        "architecture": model.config["arch"],
        **extra,
        "vocabSize": model.config["vocab"],
        "logits": logits_name,
        "perplexity": float(np.exp(np.mean(chosen))),
        "tokens": ids,
        "greedy": [int(row[0]) for row in order],
        "top5": top,
    }
    with open(os.path.join(folder, stem + ".json"), "w") as f:
        f.write("{\n" + ",\n".join(' "%s": %s' % (k, json.dumps(v)) for k, v in data.items()) + "\n}\n")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out")
    parser.add_argument("--type", choices=["q8_0", "f16"], default="q8_0")
    parser.add_argument("--golden", help="folder for the expected logits of the shipped weights")
    parser.add_argument("--f32", help="folder for a float32 GGUF with its expected logits")
    parser.add_argument("--context", type=int, default=2304)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = tokenizer.Tokenizer.load(os.path.join(HERE, "tokenizer.json"))
    ids = golden_ids(tok)
    if args.out:
        model, state = load_model(args.checkpoint)
        back = export(model, tok, args.name, args.out, args.type, args.context)
        if args.golden:
            extra = {"model": os.path.basename(args.out), "type": args.type}
            write_golden(args.golden, args.name, args.name + ".logits.f32", model, back, ids, extra)
        print(args.out, os.path.getsize(args.out), "bytes, step", state["step"])
    if args.f32:
        os.makedirs(args.f32, exist_ok=True)
        model, state = load_model(args.checkpoint)
        back = export(model, tok, args.name, os.path.join(args.f32, "model.gguf"), "f32", args.context)
        write_golden(args.f32, "golden", "logits.f32", model, back, ids, {"variant": args.name, "type": "f32"})
