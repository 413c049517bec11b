"""Scores a checkpoint on the committed evaluation set, with PyTorch.

  evaluate.py CHECKPOINT|FILE.gguf --name tide-dense [--type q8_0|f16] [--groups needle-64,...] [--limit N] [--results FILE]

What this is: greedy decoding of every item, exact match after trimming, and perplexity; a checkpoint's weights are
rounded to the shipped type first, a GGUF file's are those of the file. The scoring rules are those of ../eval/README.md.
What it does not do: it is not the engine, whose scores `npm run eval` gives.
"""

import argparse
import json
import math
import os
import sys
import time

import torch

import export
import loops
import read_gguf
from tokenizer import Tokenizer
from train import HERE, load_model


@torch.no_grad()
def is_greedy(model, tok, prompt, answer, scale):
    """Whether greedy decoding gives the answer, in its usual tokens, and then ends the line or the turn."""
    lead = "" if prompt.endswith("\n") else " "
    head, tail = tok.encode(prompt), tok.encode_plain(lead + answer)
    hidden = model.hidden(torch.tensor([head + tail]), rope_scale=scale)[0, len(head) - 1 :]
    best = (hidden @ model.token_embd.weight.t()).argmax(-1).tolist()
    return best[:-1] == tail and (best[-1] in (tok.eos, tok.im_end) or tok.decode(best[-1:]).startswith("\n"))


@torch.no_grad()
def answer_of(model, tok, prompt, limit, scale=1.0):
    """Greedy continuation of a prompt until a line end, an end token or `limit` tokens."""
    ids, past, made = tok.encode(prompt), [{} for _ in model.blocks], []
    hidden = model.hidden(torch.tensor([ids]), rope_scale=scale, past=past)
    while len(made) < limit:
        token = int((model.token_embd.weight @ hidden[0, -1]).argmax())
        if token in (tok.eos, tok.im_end):
            break
        made.append(token)
        if "\n" in tok.decode(made).lstrip():
            break
        at = torch.tensor([[len(ids) + len(made) - 1]])
        hidden = model.hidden(torch.tensor([[token]]), at, scale, past)
    return tok.decode(made)


def trimmed(text):
    """What is compared: surrounding white space off, then up to the first line end."""
    return text.strip().split("\n")[0].strip()


@torch.no_grad()
def perplexity(model, tok, items):
    total, count = 0.0, 0
    for item in items:
        ids = torch.tensor(tok.encode(item["text"]))
        logits = model(ids[None])[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
        count += len(ids) - 1
    return math.exp(total / count)


def repeats_of(model, tok, group, items):
    """Share of repeated runs in the continuations, and how many texts ended by themselves."""
    ends, again, runs, ended = [tok.eos, tok.im_end], 0, 0, 0
    for item in items:
        prompt = torch.tensor([tok.encode(item["prompt"])])
        ids, stopped = loops.cut(loops.continued(model, prompt, group["tokens"], ends)[0].tolist(), ends)
        again += len(loops.repeated(ids, group["gram"]))
        runs += max(0, len(ids) - group["gram"] + 1)
        ended += stopped
    return {"repeated": round(again / max(1, runs), 4), "ended": ended}


def score_group(model, tok, group, limit, most, scale):
    items = group["items"][:most]
    began = time.time()
    if group["kind"] == "loops":
        value = repeats_of(model, tok, group, items)
    elif group["kind"] == "perplexity":
        value = {"perplexity": round(perplexity(model, tok, items), 4)}
    else:
        wrong = []
        for i, item in enumerate(items):
            if is_greedy(model, tok, item["prompt"], item["answer"], scale):
                continue
            got = trimmed(answer_of(model, tok, item["prompt"], limit, scale))
            if got != item["answer"]:
                wrong.append({"item": i, "got": got, "want": item["answer"]})
        value = {"correct": len(items) - len(wrong), "accuracy": round(1 - len(wrong) / len(items), 4), "wrong": wrong}
    return {"name": group["name"], "items": len(items), **value, "seconds": round(time.time() - began, 1)}


def shipped(checkpoint, kind):
    """The model of a checkpoint with its weights rounded as in the shipped file, or the model of that file itself."""
    if checkpoint.endswith(".gguf"):
        return read_gguf.load_gguf(checkpoint), None
    model, state = load_model(checkpoint)
    with torch.no_grad():
        for _, tensor, role in model.gguf_tensors():
            _, values = export.pack(tensor.detach().numpy(), kind if role == "matrix" else "f32")
            tensor.copy_(torch.from_numpy(values).view_as(tensor))
    return model, state


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--type", choices=["q8_0", "f16", "f32"], default="q8_0")
    parser.add_argument("--set", default=os.path.join(HERE, "../eval/tide-eval.json"))
    parser.add_argument("--groups", help="comma list; all when absent")
    parser.add_argument("--limit", type=int, default=10**6, help="items per group")
    parser.add_argument("--rope-scale", type=float, default=1.0, help="linear RoPE scaling factor")
    parser.add_argument("--results", help="JSON file in which this model's scores are put")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = Tokenizer.load(os.path.join(HERE, "tokenizer.json"))
    model, state = shipped(args.checkpoint, args.type)
    with open(args.set) as f:
        data = json.load(f)
    wanted = args.groups.split(",") if args.groups else [g["name"] for g in data["groups"]]
    scores = []
    for group in data["groups"]:
        if group["name"] in wanted:
            scores.append(score_group(model, tok, group, data["maxNewTokens"], args.limit, args.rope_scale))
            short = {k: v for k, v in scores[-1].items() if k != "wrong"}
            print(json.dumps(short), json.dumps(scores[-1].get("wrong", [])[:3]), flush=True)
    if args.results:
        results = {}
        if os.path.exists(args.results):
            with open(args.results) as f:
                results = json.load(f)
        entry = results.setdefault(args.name, {"type": args.type, "step": 0, "tokens": 0, "groups": {}})
        if state is not None:
            entry.update(step=state["step"], tokens=state["tokens"], type=args.type)
        for s in scores:
            entry["groups"][s["name"]] = {k: v for k, v in s.items() if k not in ("wrong", "name", "seconds")}
        with open(args.results, "w") as f:
            json.dump(results, f, indent=1)
            f.write("\n")
