"""Measures how a mixture of experts chooses: whether all experts are in use, whether a token's experts are those of the
token before, and whether kinds of documents prefer experts.

  routing.py CHECKPOINT|FILE.gguf

What it does not do: it judges no answers (evaluate.py), and its documents are those of training.
"""

import argparse
import os
import sys

sys.dont_write_bytecode = True

import torch

import read_gguf
import world
from tokenizer import Tokenizer
from train import HERE, load_model

KINDS = ["facts", "list", "foreign", "story", "letter", "talk", "prose"]
LENGTH = 1024


@torch.no_grad()
def choices(model, tok, kind):
    """Per layer the chosen experts [tokens, k] of one row of documents of a kind."""
    mix = {k: float(k == kind) for k in world.MIX}
    ids, _ = world.training_row(tok, "routing/" + kind, LENGTH, mix)
    seen = []
    hooks = [b.ffn.ffn_gate_inp.register_forward_hook(lambda _, __, out, k=b.ffn.k: seen.append(out.topk(k, -1)[1])) for b in model.blocks]
    model.hidden(torch.tensor([ids[:-1]]))
    for hook in hooks:
        hook.remove()
    return [c.view(-1, c.shape[-1]) for c in seen]


def shares(chosen, experts):
    counts = torch.bincount(chosen.reshape(-1), minlength=experts).double()
    return counts / counts.sum()


def kept(chosen):
    """Share of a token's experts that the token before had chosen too."""
    hits = (chosen[1:, :, None] == chosen[:-1, None, :]).any(-1)
    return hits.double().mean().item()


def row_of(layer, by_kind, experts):
    everything = torch.cat(by_kind)
    mean = shares(everything, experts)
    used = (-(mean * mean.clamp_min(1e-12).log()).sum()).exp().item()
    local = sum(map(kept, by_kind)) / len(by_kind)
    chance = everything.shape[1] * (mean * mean).sum().item()
    apart = [(shares(c, experts) - mean).abs().sum().item() / 2 for c in by_kind]
    cells = ["%d" % layer, "%.1f" % used, "%.1f%%" % (100 * mean.min()), "%.1f%%" % (100 * mean.max()), "%.2f" % local,
             "%.2f" % chance] + ["%.2f" % a for a in apart]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = Tokenizer.load(os.path.join(HERE, "tokenizer.json"))
    model = read_gguf.load_gguf(args.model) if args.model.endswith(".gguf") else load_model(args.model)[0]
    found = [choices(model, tok, kind) for kind in KINDS]
    head = ["layer", "experts in use", "least used", "most used", "kept from the token before", "by chance"] + KINDS
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for layer in range(len(model.blocks)):
        print(row_of(layer, [c[layer] for c in found], model.config["experts"]))
