"""Trains one model from a configuration; checkpoints, resumes, logs a loss curve and a quick needle score.

What this is: the training loop (Muon for matrices, AdamW for the rest, stages with a linear learning-rate ramp each,
training rows made on the fly from a seed and the step number, so that a resumed run sees the same data).
What it does not do: it exports nothing (export.py) and gives no final figures (evaluate.py).

  train.py --config configs/tide-dense.json --out FOLDER [--init CHECKPOINT] [--until HH:MM]
  train.py --smoke        20 steps of a tiny model; prints {"firstLoss", "lastLoss"}; exits 1 when the loss did not fall
"""

import argparse
import csv
import datetime
import json
import os
import random
import signal
import sys
import time

import torch
import torch.nn.functional as F

import circuits
import evalset
import grow
import loops
import models
import world
from tokenizer import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))


# ---- optimizers ---------------------------------------------------------------------------------------------------
def orthogonalise(g, steps=4):
    """Newton-Schulz iteration of Muon on a batch of matrices [n, rows, cols]. It starts from the fourth root of the sum of
    the fourth powers of the singular values, a closer bound on the largest than the Frobenius norm, and so takes a step less."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    x = x.bfloat16() if models.half_training else x
    s = x @ x.transpose(1, 2)
    square = s.float().flatten(1).norm(dim=1)[:, None, None] + 1e-7
    x, s = (x / square.sqrt()).to(x.dtype), (s / square).to(x.dtype)
    for i in range(steps):
        s = x @ x.transpose(1, 2) if i else s
        x = a * x + (b * s + c * s @ s) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon:
    """Momentum, then orthogonalised update; matrices of one shape go in one batch. A 3-D tensor is a stack."""

    def __init__(self, params, lr, steps=4, momentum=0.95, decay=0.01):
        self.params, self.lr, self.steps, self.momentum, self.decay = params, lr, steps, momentum, decay
        self.state = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, scale):
        groups = {}
        for p, m in zip(self.params, self.state):
            m.lerp_(p.grad, 1 - self.momentum)
            nesterov = p.grad.lerp(m, self.momentum)
            stack = nesterov if p.dim() == 3 else nesterov[None]
            groups.setdefault(tuple(stack.shape[1:]), []).append((p, stack))
        for shape, members in groups.items():
            update = orthogonalise(torch.cat([s for _, s in members]), self.steps)
            lr = self.lr * scale * max(1.0, shape[0] / shape[1]) ** 0.5
            for (p, s), u in zip(members, update.split([s.shape[0] for _, s in members])):
                p.mul_(1 - self.lr * scale * self.decay).add_(u.view_as(p), alpha=-lr)


def make_optimizers(model, config):
    matrices, others = [], []
    for name, p in model.named_parameters():
        small = p.dim() < 2 or "token_embd" in name or name.endswith("conv") or "gate_inp" in name
        (others if small else matrices).append(p)
    adam = torch.optim.AdamW(others, lr=config["adam_lr"], betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)
    return Muon(matrices, config["muon_lr"], config.get("muon_steps", 4)), adam


# ---- data -------------------------------------------------------------------------------------------------------
def skip_positions(ids, newline_ids, length, reach, rng):
    """Positions 0.. with one to three jumps at line ends, so that short rows also show distances up to `reach`."""
    positions = torch.arange(length)
    room = reach - length
    if room <= 0 or rng.random() < 0.4:
        return positions
    ends = [i + 1 for i, t in enumerate(ids[: length - 1]) if t in newline_ids]
    if not ends:
        return positions
    for _ in range(rng.choice([1, 1, 2, 3])):
        jump = int(rng.random() * room)
        positions[rng.choice(ends) :] += jump
        room -= jump
    return positions


def make_batch(tok, config, stage, seed, newline_ids):
    """ids, weights [rows, length + 1] and positions [rows, length]; the same seed gives the same batch."""
    length = stage["length"]
    caps = stage.get("facts_budget")
    budget = (lambda r: r.randrange(caps[0], caps[1] + 1)) if caps else None
    ids, weights, positions = [], [], []
    for row in range(stage["rows"]):
        key = "%s/%s/%d" % (config["seed"], seed, row)
        a, b = world.training_row(tok, key, length, stage.get("mix"), budget)
        ids.append(a)
        weights.append(b)
        positions.append(skip_positions(a, newline_ids, length, stage.get("reach", 0), random.Random(key + "/pos")))
    return torch.tensor(ids), torch.tensor(weights), torch.stack(positions)


def stage_of(config, step):
    """(stage, learning-rate scale) for a step, or None after the last stage."""
    start = 0
    for stage in config["stages"]:
        if step < start + stage["steps"]:
            x = (step - start) / stage["steps"]
            scale = stage["lr"][0] + (stage["lr"][1] - stage["lr"][0]) * x
            return stage, scale * min(1.0, (step + 1) / 40)
        start += stage["steps"]
    return None


def shaped(stage, step, cooling):
    """The stage with the row shape of this step: the shapes in "shapes" take turns, those in `cooling` while the rate falls."""
    shapes = cooling or stage.get("shapes")
    return {**stage, **shapes[step % len(shapes)]} if shapes else stage


# ---- loss and quick score ----------------------------------------------------------------------------------------
def loss_of(model, ids, weights, positions):
    """(weighted loss to train on, plain mean loss, mean loss on answers, mean loss on first tokens of values)."""
    logits = model(ids[:, :-1], positions)
    each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    free = each.detach()
    first = free[w == world.W_FIRST]
    answers = torch.cat([first, free[w == world.W_ANSWER]])
    return (each * w).sum() / w.sum(), free.mean(), *(x.sum() / max(1, len(x)) for x in (answers, first))


@torch.no_grad()
def forced_hits(model, tok, items):
    """Share of items whose answer and line end are all the most likely tokens, given the ones before."""
    hits = 0
    device = model.token_embd.weight.device
    for prompt, answer in items:
        head = tok.encode(prompt)
        lead, end = ("", [tok.im_end]) if prompt.endswith("assistant\n") else (" ", tok.encode("\n"))
        tail = tok.encode_plain(lead + answer) + end
        hidden = model.hidden(torch.tensor([head + tail[:-1]], device=device))[0, len(head) - 1 :]
        best = (hidden @ model.token_embd.weight.t()).argmax(-1)
        hits += best.tolist() == tail
    return hits / len(items)


@torch.no_grad()
def repeated_share(model, tok, starts):
    """Share of repeated runs of 8 tokens in 150 greedy ones."""
    ends, again = [tok.eos, tok.im_end], 0
    for start in starts:
        prompt = torch.tensor([tok.encode(start)], device=model.token_embd.weight.device)
        ids, _ = loops.cut(loops.continued(model, prompt, 150, ends)[0].tolist(), ends)
        again += len(loops.repeated(ids, 8)) / max(1, len(ids) - 7)
    return again / len(starts)


def quick_score(model, tok, name, items):
    return round((repeated_share if name == "loops" else forced_hits)(model, tok, items), 3)


def quick_items(tok, config):
    """Small evaluation-side samples for the log; other seeds than the committed evaluation set."""
    out = {}
    for name in config["quick"]:
        if name.isdigit():
            n = 32 if int(name) <= 512 else 16
            out[name] = [evalset.needle(tok, "quick/%s/%d" % (name, i), int(name)) for i in range(n)]
        elif name.startswith("train"):
            out[name] = [evalset.needle(tok, "quick/%s/%d" % (name, i), int(name[5:]), ev=False) for i in range(32)]
        elif name == "changed":
            out[name] = [evalset.changed(tok, "quick/c%d" % i, 200) for i in range(32)]
        elif name == "multi":
            out[name] = [evalset.multi(tok, "quick/m%d" % i, 200) for i in range(32)]
        elif name in ("list", "count"):
            out[name] = [evalset.listing(tok, "quick/%s%d" % (name, i), name) for i in range(32)]
        elif name == "foreign":
            out[name] = [evalset.foreign_item(tok, "quick/f%d" % i, 120) for i in range(32)]
        elif name == "loops":
            out[name] = [evalset.story_start("quick/l%d" % i) for i in range(12)]
        elif name == "chat":
            out[name] = [x for i in range(5) for x in evalset.chat_items(tok, "quick/s%d" % i, 300)]
    return out


# ---- the run --------------------------------------------------------------------------------------------------------
def save(path, model, muon, adam, step, tokens, config):
    state = {"model": model.state_dict(), "muon": muon.state, "adam": adam.state_dict(), "step": step,
             "tokens": tokens, "config": config}  # fmt: skip
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def load_model(path, device="cpu"):
    """The model of a checkpoint, in evaluation mode, and the checkpoint itself."""
    state = torch.load(path, map_location=device)
    model = models.Model(state["config"]["model"]).to(device)
    model.load_state_dict(state["model"])
    return model.eval(), state


def append(path, row):
    new = not os.path.exists(path)
    with open(path, "a", newline="") as f:
        writer = csv.writer(f)
        if new:
            writer.writerow(row.keys())
        writer.writerow(row.values())


def upcycle(model, path):
    """Starts a mixture of experts as the same function as a dense checkpoint: experts 2j and 2j + 1 are the two halves of
    its FFN (times two, since each weighs one half) and share one random router row, so that they are picked together."""
    dense = torch.load(path, map_location="cpu")["model"]
    own = model.state_dict()
    for name, tensor in dense.items():
        if name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
    for i in range(len(model.blocks)):
        gate, up, down = (dense["blocks.%d.ffn.ffn_%s.weight" % (i, n)] for n in ("gate", "up", "down"))
        key = "blocks.%d.ffn." % i
        router = own[key + "ffn_gate_inp.weight"]
        experts, width = own[key + "ffn_gate_exps"].shape[:2]
        if gate.shape[0] != 2 * width:
            raise ValueError("expert_ff must be half of the dense ff (%d), is %d" % (gate.shape[0], width))
        for e in range(experts):
            half = slice((e % 2) * width, (e % 2 + 1) * width)
            own[key + "ffn_gate_exps"][e] = gate[half]
            own[key + "ffn_up_exps"][e] = up[half]
            own[key + "ffn_down_exps"][e] = 2 * down[:, half]
            if e % 2:
                router[e] = router[e - 1]
    model.load_state_dict(own)


class StopRequest:
    """Set by SIGTERM or SIGINT: the run ends after the step in progress and saves."""

    def __init__(self):
        self.asked = False
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, lambda *_: setattr(self, "asked", True))


def minutes_until(clock):
    """Minutes from now to HH:MM (UTC) of today; negative once it has passed."""
    now = datetime.datetime.utcnow()
    hour, minute = map(int, clock.split(":"))
    return (hour - now.hour) * 60 + minute - now.minute - now.second / 60


def train(config, out, device="cpu", until=None, init=None, cool=0.0, pause=None, log=print):
    torch.manual_seed(config["torch_seed"])
    models.half_training = config.get("bf16", False)
    tok = Tokenizer.load(os.path.join(HERE, "tokenizer.json"))
    config["model"]["vocab"] = len(tok.tokens)
    newline_ids = {i for i, t in enumerate(tok.tokens) if t.endswith("Ċ")}
    model = models.Model(config["model"]).to(device)
    if config.get("circuits"):
        circuits.install(model)
    path = os.path.join(out, "last.pt") if out else None
    step, tokens, muon_state, adam_state = 0, 0, None, None
    if path and os.path.exists(path):
        state = torch.load(path, map_location=device)
        model.load_state_dict(state["model"])
        step, tokens, muon_state, adam_state = state["step"], state["tokens"], state["muon"], state["adam"]
    elif init and init.endswith(".gguf"):
        grow.start_from(model, init, config["torch_seed"])
    elif init:
        upcycle(model, init)
    muon, adam = make_optimizers(model, config)
    if muon_state:
        for mine, saved in zip(muon.state, muon_state):
            mine.copy_(saved)
        adam.load_state_dict(adam_state)
    log("parameters %d, from step %d" % (models.count_parameters(model), step))
    quick = quick_items(tok, config)
    against = config.get("against_loops")
    again = 0.0
    losses, began, saved_at, looked_at = [], time.time(), time.time(), time.time()
    stop, cooling = StopRequest(), False
    while True:
        at = stage_of(config, step)
        late = until and minutes_until(until) <= 0
        if at is None or late or stop.asked:
            break
        stage, scale = at
        while pause and os.path.exists(pause) and not stop.asked:
            time.sleep(1)
        if until and cool:
            left = minutes_until(until)
            if left < cool and not cooling:
                cooling = True
                save(os.path.join(out, "warm.pt"), model, muon, adam, step, tokens, config)
                log("cooling from step %d" % step)
            if cooling:
                scale *= min(1.0, max(0.02, left / cool))
        stage = shaped(stage, step, config.get("cooling") if cooling else None)
        ids, weights, positions = (x.to(device) for x in make_batch(tok, config, stage, step, newline_ids))
        loss, plain, on_answers, on_first = loss_of(model, ids, weights, positions)
        total = loss + model.routing_loss(config.get("balance", 0.0), config.get("coherence", 0.0))
        if against and step % against["every"] == 0:
            more, share = loops.against(model, tok, against, "%s/loops/%d" % (config["seed"], step))
            total, again = total + more, 0.9 * again + 0.1 * share if again else share
        for p in model.parameters():
            p.grad = None
        total.backward()
        torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], 1.0)
        for group in adam.param_groups:
            group["lr"] = config["adam_lr"] * scale
        muon.step(scale)
        adam.step()
        step += 1
        tokens += ids[:, 1:].numel()
        losses.append((loss.item(), plain.item(), on_answers.item(), on_first.item()))
        now = time.time()
        if step % 25 == 0 and out:
            mean = [sum(x) / len(x) for x in zip(*losses[-25:])]
            row = {"step": step, "tokens": tokens, "seconds": round(now - began, 1), "length": stage["length"],
                   "lrScale": round(scale, 4), "loss": round(mean[0], 4), "plainLoss": round(mean[1], 4),
                   "answerLoss": round(mean[2], 4), "firstLoss": round(mean[3], 4), "repeated": round(again, 4)}  # fmt: skip
            append(os.path.join(out, "loss.csv"), row)
            log(" ".join("%s %s" % x for x in row.items()))
        if out and now - looked_at > config.get("look_every_s", 240):
            model.eval()
            row = {"step": step, "tokens": tokens, **{k: quick_score(model, tok, k, v) for k, v in quick.items()}}
            model.train()
            append(os.path.join(out, "quick.csv"), row)
            log("QUICK " + " ".join("%s %s" % x for x in row.items()))
            looked_at = time.time()
        if out and now - saved_at > config.get("save_every_s", 150):
            save(path, model, muon, adam, step, tokens, config)
            saved_at = now
    if out:
        save(path, model, muon, adam, step, tokens, config)
        log("stopped at step %d after %d tokens" % (step, tokens))
    return losses


def smoke():
    """20 steps of a tiny model; nothing is written."""
    config = {
        "seed": "smoke", "torch_seed": 1, "muon_lr": 0.02, "adam_lr": 0.004, "quick": [],
        "model": {"arch": "qwen3", "d": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32, "ff": 128,
                  "eps": 1e-6, "theta": 1e6},
        "stages": [{"steps": 20, "length": 128, "rows": 8, "lr": [1.0, 1.0]}],
        "against_loops": {"every": 10, "rows": 4, "prompt": 20, "new": 24, "gram": 3, "weight": 0.1},
    }  # fmt: skip
    losses = [x[0] for x in train(config, None, log=lambda text: None)]
    first, last = losses[0], sum(losses[-3:]) / 3
    print(json.dumps({"firstLoss": round(first, 4), "lastLoss": round(last, 4)}))
    return 0 if last < first - 0.5 else 1


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--out")
    parser.add_argument("--init", help="GGUF file of the same kind to grow from, or the dense checkpoint of a mixture of experts")
    parser.add_argument("--until", help="stop at this UTC time, HH:MM")
    parser.add_argument("--cool", type=float, default=0, help="minutes before --until in which the learning rate falls")
    parser.add_argument("--pause", help="training waits while this file exists")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    if args.smoke:
        sys.exit(smoke())
    os.makedirs(args.out, exist_ok=True)
    with open(args.config) as f:
        train(json.load(f), args.out, args.device, args.until, args.init, args.cool, args.pause,
              lambda text: print(text, flush=True))
