"""A structured start: look-back circuits written into the initial weights.

What this is: an initialisation for short trainings. Small transformers need millions of tokens before heads appear that
find an earlier occurrence of the present words and read what followed (induction heads, Olsson et al. 2022). Here the
first mixer starts by copying the last two tokens into a part of the residual stream, and later attention heads
start by matching that part with the present tokens. Everything is trained on from there; nothing is frozen.
What it does not do: it puts no words, names or facts into the model; tokens stay random vectors.

Residual stream: dimension 0 is a constant, [1, IDENTITY) tells the token, then two codes of CODE dimensions (the token
before and the one before that), then NEAR dimensions that sum up the last ten tokens or so: two places whose
neighbourhoods share words (a name, an attribute) are alike there. RMSNorm makes the entries about 1, the constant 4.
"""

import torch

from models import Attention

IDENTITY, CODE, NEAR = 65, 16, 31
EMBEDDING_STD, CONSTANT = 0.25, 1.0  # large beside one step of Muon, so that the circuits outlive the first steps
FINAL_NORM = 0.25  # keeps the first logits small all the same


def orthonormal(rows, columns):
    q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))
    return q if rows >= columns else q.t()


def slow_dims(head_dim):
    """Places in a head whose RoPE frequencies are low (second half of the pairs)."""
    half = head_dim // 2
    return list(range(half // 2, half)) + list(range(half + half // 2, head_dim))


def previous_by_attention(attention, code_map, theta):
    """Two query heads of the first key head look one and two tokens back; their values carry the token's identity."""
    hd, d = attention.hd, attention.attn_q.weight.shape[1]
    half, value = hd // 2, orthonormal(hd, IDENTITY - 1)
    pattern = torch.zeros(hd)
    pattern[:3] = torch.tensor([0.5, 0.3, 0.2]).sqrt()
    attention.attn_k.weight[:hd] = 0
    attention.attn_k.weight[:hd, 0] = pattern
    attention.attn_v.weight[:hd] = 0
    attention.attn_v.weight[:hd, 1:IDENTITY] = value
    for back in (1, 2):
        query = torch.zeros(hd)
        for i in range(3):
            angle = torch.tensor(back * theta ** (-i / half))
            query[i], query[i + half] = pattern[i] * torch.cos(angle), -pattern[i] * torch.sin(angle)
        rows = slice((back - 1) * hd, back * hd)
        attention.attn_q.weight[rows] = 0
        attention.attn_q.weight[rows, 0] = query
        out = slice(IDENTITY + (back - 1) * CODE, IDENTITY + back * CODE)
        attention.attn_output.weight[out, rows] = EMBEDDING_STD * code_map @ value.t()
    sharpen(attention)


def previous_by_convolution(conv, code_map):
    """The short convolution does the same with its taps."""
    d = conv.out_proj.weight.shape[0]
    b, c, x = conv.in_proj.weight.split(d)
    for back in (1, 2):
        out = slice(IDENTITY + (back - 1) * CODE, IDENTITY + back * CODE)
        for gate in (b, c):
            gate[out] = 0
            gate[out, 0] = EMBEDDING_STD / CONSTANT
        x[out] = 0
        x[out, 1:IDENTITY] = code_map
        conv.conv[out] = 0
        conv.conv[out, conv.K - 1 - back] = 1
        conv.out_proj.weight[out, out] = EMBEDDING_STD * torch.eye(CODE)


def sharpen(attention):
    attention.attn_q_norm.weight.fill_(1.5)
    attention.attn_k_norm.weight.fill_(1.5)


def induction(attention, code_map, head, pair_weight):
    """One head: the present token meets keys that it came before; the token before it adds `pair_weight`."""
    hd = attention.hd
    kv = head // (attention.h // attention.kv)
    first, second = orthonormal(hd // 2, CODE), orthonormal(hd // 2, CODE) * pair_weight
    q, k = torch.zeros(2, hd, attention.attn_q.weight.shape[1])
    slow = slow_dims(hd)
    one, two = slice(IDENTITY, IDENTITY + CODE), slice(IDENTITY + CODE, IDENTITY + 2 * CODE)
    q[slow, 1:IDENTITY], q[slow, one] = first @ code_map, second
    k[slow, one], k[slow, two] = first, second
    value = orthonormal(hd, IDENTITY - 1)
    attention.attn_q.weight[head * hd : (head + 1) * hd] = q
    attention.attn_k.weight[kv * hd : (kv + 1) * hd] = k
    attention.attn_v.weight[kv * hd : (kv + 1) * hd] = 0
    attention.attn_v.weight[kv * hd : (kv + 1) * hd, 1:IDENTITY] = value
    attention.attn_output.weight[1:IDENTITY, head * hd : (head + 1) * hd] = 3 * EMBEDDING_STD * value.t()
    sharpen(attention)


def neighbourhood(attention, near_map, kv, theta):
    """The heads of one key head average the tokens near by; the window is that of slowly turning RoPE pairs."""
    hd, half = attention.hd, attention.hd // 2
    group = attention.h // attention.kv
    pattern = torch.zeros(hd)
    speed = [theta ** (-i / half) for i in range(half)]
    for wanted, weight in ((0.075, 0.5), (0.03, 0.25), (0.013, 0.25)):
        pattern[min(range(half), key=lambda i: abs(speed[i] / wanted - 1))] = weight**0.5
    value = orthonormal(hd, IDENTITY - 1)
    keys = slice(kv * hd, (kv + 1) * hd)
    attention.attn_k.weight[keys] = 0
    attention.attn_k.weight[keys, 0] = pattern
    attention.attn_v.weight[keys] = 0
    attention.attn_v.weight[keys, 1:IDENTITY] = value
    for head in range(kv * group, (kv + 1) * group):
        rows = slice(head * hd, (head + 1) * hd)
        attention.attn_q.weight[rows] = 0
        attention.attn_q.weight[rows, 0] = pattern
        attention.attn_output.weight[-NEAR:, rows] = 3 / group * EMBEDDING_STD * near_map @ value.t()


def likeness(attention, head):
    """One head meets places with a like neighbourhood and reads their token."""
    hd = attention.hd
    kv = head // (attention.h // attention.kv)
    mapping = torch.zeros(hd, attention.attn_q.weight.shape[1])
    mapping[slow_dims(hd), -NEAR:] = orthonormal(hd // 2, NEAR)
    value = orthonormal(hd, IDENTITY - 1)
    attention.attn_q.weight[head * hd : (head + 1) * hd] = mapping
    attention.attn_k.weight[kv * hd : (kv + 1) * hd] = mapping
    attention.attn_v.weight[kv * hd : (kv + 1) * hd] = 0
    attention.attn_v.weight[kv * hd : (kv + 1) * hd, 1:IDENTITY] = value
    attention.attn_output.weight[1:IDENTITY, head * hd : (head + 1) * hd] = EMBEDDING_STD * value.t()


@torch.no_grad()
def install(model):
    """Writes the circuits into a fresh model of width IDENTITY + 2 * CODE + NEAR."""
    if model.config["d"] != IDENTITY + 2 * CODE + NEAR:
        raise ValueError("circuits need d = %d" % (IDENTITY + 2 * CODE + NEAR))
    table = model.token_embd.weight
    table.mul_(EMBEDDING_STD / table.std())
    table[:, 0] = CONSTANT
    model.norm.weight.fill_(FINAL_NORM)
    table[:, IDENTITY:] = 0
    code_map = orthonormal(CODE, IDENTITY - 1) * ((IDENTITY - 1) / CODE) ** 0.5
    mixer = model.blocks[0].mixer
    if isinstance(mixer, Attention):
        previous_by_attention(mixer, code_map, model.config["theta"])
    else:
        previous_by_convolution(mixer, code_map)
    attentions = [b.mixer for b in model.blocks[1:] if isinstance(b.mixer, Attention)]
    near_map = orthonormal(NEAR, IDENTITY - 1) * ((IDENTITY - 1) / NEAR) ** 0.5
    neighbourhood(attentions[0], near_map, 0, model.config["theta"])
    for attention, pair_weight in zip(attentions[-2:], (1.0, 0.3)):
        induction(attention, code_map, 0, pair_weight)
        likeness(attention, attention.h - 1)
