"""Loops: greedy continuations of stories, how much of them repeats itself, and a loss against that.

What this is: decoding of several prompts at once with a cache, the share of repeated runs that evaluate.py prints, and
unlikelihood on whole continuations (Welleck et al. 2020): the model continues beginnings of stories, and the first words
of a sentence that stood before in the same continuation are made less likely.
What it does not do: the beginnings are those of training; it knows no sentence of the evaluation.
"""

import random

import torch

import world


@torch.no_grad()
def continued(model, prompts, count, ends):
    """Ids [B, n] that greedy decoding adds to prompts [B, T]: n is `count`, or less when all have reached an end token.
    What stands after the end token of a row is of no use."""
    past = [{} for _ in model.blocks]
    stops = torch.tensor(ends, device=prompts.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    hidden, made = model.hidden(prompts, past=past), []
    while True:
        made.append((hidden[:, -1] @ model.token_embd.weight.t()).argmax(-1))
        ended |= torch.isin(made[-1], stops)
        if len(made) == count or bool(ended.all()):
            return torch.stack(made, 1)
        at = prompts.shape[1] + len(made) - 1
        hidden = model.hidden(made[-1][:, None], torch.tensor([[at]], device=prompts.device), past=past)


def cut(ids, ends):
    """(ids before the first end token, whether there is one)."""
    at = next((i for i, token in enumerate(ids) if token in ends), None)
    return (ids, False) if at is None else (ids[:at], True)


def repeated(ids, n):
    """Positions whose token ends a run of n tokens that stood before in the same text."""
    seen, out = set(), []
    for i in range(n - 1, len(ids)):
        run = tuple(ids[i - n + 1 : i + 1])
        if run in seen:
            out.append(i)
        seen.add(run)
    return out


def beginnings(tok, seed, rows, length):
    """[rows, length] ids: stories of training, cut after that many tokens."""
    out, rng = [], random.Random(seed)
    while len(out) < rows:
        ids = tok.encode_plain(world.unmark(world.story_text(world.World(rng, False))))
        if len(ids) >= length:
            out.append(ids[:length])
    return torch.tensor(out)


def begun_again(tok, ids, n):
    """Positions where a sentence or clause begins, by one of its first three words, that goes on for n tokens as one before
    it did. Words are not taken apart: a loss on every repeated token teaches nonsense instead."""
    out, since = [], 3
    for i, token in enumerate(ids):
        text, before = tok.tokens[token], tok.tokens[ids[i - 1]] if i else "."
        since = 0 if before[-1] in '.,;!?"Ċ' else since + (text[0] == "Ġ")
        if since < 3 and (since == 0 or text[0] == "Ġ"):
            out.append(i)
    firsts = {}
    for i in range(len(ids) - n + 1):
        firsts.setdefault(tuple(ids[i : i + n]), i)
    return [i for i in out if i + n <= len(ids) and firsts[tuple(ids[i : i + n])] < i]


def against(model, tok, options, seed):
    """(loss of one step, share of repeated runs). options: rows, prompt, new, gram, weight."""
    ends = [tok.eos, tok.im_end]
    prompts = beginnings(tok, seed, options["rows"], options["prompt"]).to(model.token_embd.weight.device)
    model.eval()
    made = continued(model, prompts, options["new"], ends)
    model.train()
    marked, again, runs = torch.zeros(made.shape, dtype=torch.bool), 0, 0
    for row, ids in enumerate(made.tolist()):
        ids, _ = cut(ids, ends)
        marked[row, begun_again(tok, ids, options["gram"])] = True
        again += len(repeated(ids, options["gram"]))
        runs += max(0, len(ids) - options["gram"] + 1)
    logits = model(torch.cat([prompts, made[:, :-1]], 1))[:, prompts.shape[1] - 1 :]
    chosen = torch.softmax(logits, -1).gather(2, made[..., None])[..., 0]
    each = -torch.log1p(-chosen.clamp(max=0.9999))
    return options["weight"] * (each * marked.to(each)).sum() / made.numel(), again / max(1, runs)
