"""The three architectures in PyTorch, as llama.cpp computes them: qwen3, lfm2, qwen3moe.

What this is: forward passes over whole sequences, or over one more token with the state of those before (`past`), RMSNorm, half-split RoPE, grouped-query attention with
per-head q/k norm, SwiGLU, gated short convolution (LFM2) and top-k experts with normalised weights (Qwen3-MoE).
What it does not do: no training loop. Parameter names are those of GGUF, so that export.py
only has to write them.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def full(x):
    """bfloat16 as float32; other types as they are."""
    return x.float() if x.dtype == torch.bfloat16 else x


class Normalise(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w over the last dimension, with few passes over memory; the result may be bfloat16."""

    @staticmethod
    def forward(ctx, x, w, eps, half):
        x = full(x)
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
        unit = x * scale
        ctx.save_for_backward(unit, w, scale)
        return (unit * w).bfloat16() if half else unit * w

    @staticmethod
    def backward(ctx, grad):
        unit, w, scale = ctx.saved_tensors
        grad = full(grad)
        product = grad * unit
        dw = product.flatten(0, -2).sum(0)
        dot = (product @ w)[..., None] / w.shape[0]
        dx = grad * w
        dx.addcmul_(unit, dot, value=-1).mul_(scale)
        return dx, dw, None, None


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x, half=False):
        return Normalise.apply(x, self.weight, self.eps, half)


class HalfMatmul(torch.autograd.Function):
    """x w^T with bfloat16 factors and results, forward and backward, for one or more w that read the same x: faster on
    processors that have bfloat16. What it saves is bfloat16 too; gradients of weights are float32."""

    @staticmethod
    def forward(ctx, x, *weights):
        flat, half = x.reshape(-1, x.shape[-1]).bfloat16(), torch.cat(weights).bfloat16()
        ctx.save_for_backward(flat, half)
        ctx.rows = [len(w) for w in weights]
        out = (flat @ half.t()).view(*x.shape[:-1], len(half))
        ctx.x = x.dtype
        return out.split(ctx.rows, -1) if len(weights) > 1 else out

    @staticmethod
    def backward(ctx, *grads):
        flat, half = ctx.saved_tensors
        g = torch.cat([x.bfloat16() for x in grads], -1).view(-1, len(half)) if len(grads) > 1 else grads[0].reshape(-1, len(half)).bfloat16()
        dx = (g @ half).view(*grads[0].shape[:-1], half.shape[1]).to(ctx.x)
        return dx, *(g.t() @ flat).float().split(ctx.rows)


class HalfSwiGLU(torch.autograd.Function):
    """down(silu(gate x) * up x) with bfloat16 factors and intermediate results."""

    @staticmethod
    def forward(ctx, x, gate, up, down):
        flat, both, down = x.reshape(-1, x.shape[-1]).bfloat16(), torch.cat([gate, up]).bfloat16(), down.bfloat16()
        gated = flat @ both.t()
        g, u = gated.chunk(2, -1)
        s = F.silu(g)
        h = s * u
        ctx.save_for_backward(flat, both, down, gated, s, h)
        ctx.x = x.dtype
        return (h @ down.t()).view(*x.shape[:-1], len(down))

    @staticmethod
    def backward(ctx, grad):
        flat, both, down, gated, s, h = ctx.saved_tensors
        y = grad.reshape(-1, len(down)).bfloat16()
        dh = y @ down
        g, u = gated.chunk(2, -1)
        both_grad = torch.empty_like(gated)
        dg, du = both_grad.chunk(2, -1)
        torch.mul(dh, s, out=du)
        dg.copy_(torch.ops.aten.silu_backward(dh * u, g))
        dgate, dup = (both_grad.t() @ flat).float().chunk(2)
        dx = (both_grad @ both).view(*grad.shape[:-1], both.shape[1]).to(ctx.x)
        return dx, dgate, dup, (y.t() @ h).float()


def project(x, w, training):
    """x w^T: in bfloat16 while training if `half_training` is set, exact otherwise."""
    if training and half_training:
        return HalfMatmul.apply(x, w).float()
    return x @ w.t()


def swiglu(x, gate, up, down, training):
    if training and half_training:
        return HalfSwiGLU.apply(x, gate, up, down).float()
    return (F.silu(x @ gate.t()) * (x @ up.t())) @ down.t()


half_training = False


class Linear(nn.Linear):
    def forward(self, x):
        return project(x, self.weight, self.training)


def linear(n_in, n_out, std=None):
    layer = Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=std if std is not None else n_in**-0.5)
    return layer


def rope_tables(head_dim, theta, positions, scale=1.0):
    """cos and sin for positions of shape [...]: [..., head_dim / 2]. `scale` > 1 is linear RoPE scaling."""
    inv = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = positions.to(torch.float64)[..., None] * inv / scale
    return torch.cos(angle), torch.sin(angle)


class Rotate(torch.autograd.Function):
    """Half-split RoPE; the gradient turns back by the same angle."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return turned(grad, cos, -sin), None, None


def turned(x, cos, sin):
    out = torch.empty_like(x)
    (a, b), (c, d) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=c).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=d).addcmul_(a, sin)
    return out


def rotate(x, cos, sin):
    """Half-split RoPE. x: [B, T, H, hd]; cos, sin: [B or 1, T, 1, hd / 2]."""
    return Rotate.apply(x, cos, sin)


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T) v over j <= i, in chunks of queries, so that the upper triangle is mostly skipped and the scores
    stay in the processor's cache. q: [N, g, T, hd] (already scaled), k and v: [N, T, hd]; g queries share a key head.
    bfloat16 inputs have bfloat16 products and probabilities; the sums of the softmax are float32."""

    @staticmethod
    def forward(ctx, q, k, v, chunk):
        N, g, T, hd = q.shape
        upper = torch.full((chunk, chunk), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
        out, kept = torch.empty_like(q), []
        for start in range(0, T, chunk):
            end = min(T, start + chunk)
            n = end - start
            p = torch.bmm(q[:, :, start:end].reshape(N, g * n, hd), k[:, :end].transpose(1, 2))
            p.view(N, g, n, end)[..., start:] += upper[:n, :n]
            p = torch.softmax(p, -1)
            out[:, :, start:end] = torch.bmm(p, v[:, :end]).view(N, g, n, hd)
            kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.chunk = chunk
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *kept = ctx.saved_tensors
        N, g, T, hd = q.shape
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
        for i, p in enumerate(kept):
            start = i * ctx.chunk
            end = min(T, start + ctx.chunk)
            n = end - start
            d = grad[:, :, start:end].reshape(N, g * n, hd)
            dv[:, :end] += torch.bmm(p.transpose(1, 2), d)
            ds = torch._softmax_backward_data(torch.bmm(d, v[:, :end].transpose(1, 2)), p, -1, p.dtype)
            dq[:, :, start:end] = torch.bmm(ds, k[:, :end]).view(N, g, n, hd)
            dk[:, :end] += torch.bmm(ds.transpose(1, 2), q[:, :, start:end].reshape(N, g * n, hd))
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


def causal_attention(q, k, v):
    """q: [B, H, T, hd], k and v: [B, Hkv, T, hd]; returns [B, H, T, hd]."""
    B, H, T, hd = q.shape
    kv = k.shape[1]
    q = (q / math.sqrt(hd)).reshape(B * kv, H // kv, T, hd)
    k, v = k.reshape(B * kv, T, hd), v.reshape(B * kv, T, hd)
    return CausalAttention.apply(q, k, v, 64 if T <= 512 else 128).view(B, H, T, hd)


def attend_all(q, k, v):
    """softmax(q k^T) v of one new token, which may look at everything: q [1, H, 1, hd], k and v [1, Hkv, T, hd]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), -1) @ v


def appended(past, name, new, axis):
    """`new` after what `past` holds under that name, which is kept for the next token."""
    past[name] = torch.cat([past[name], new], axis) if name in past else new
    return past[name]


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.h, self.kv, self.hd = c["heads"], c["kv_heads"], c["head_dim"]
        self.attn_q = linear(c["d"], self.h * self.hd)
        self.attn_k = linear(c["d"], self.kv * self.hd)
        self.attn_v = linear(c["d"], self.kv * self.hd)
        self.attn_output = linear(self.h * self.hd, c["d"], std=0.0)
        self.attn_q_norm = RMSNorm(self.hd, c["eps"])
        self.attn_k_norm = RMSNorm(self.hd, c["eps"])

    def projected(self, x):
        weights = self.attn_q.weight, self.attn_k.weight, self.attn_v.weight
        if self.training and half_training:
            return HalfMatmul.apply(x, *weights)
        return [x @ w.t() for w in weights]

    def forward(self, x, rope, past=None):
        B, T, _ = x.shape
        q, k, v = self.projected(x)
        q = rotate(self.attn_q_norm(q.view(B, T, self.h, self.hd)), *rope)
        k = rotate(self.attn_k_norm(k.view(B, T, self.kv, self.hd)), *rope)
        v = v.view(B, T, self.kv, self.hd)
        if self.training and half_training:
            q, k = q.bfloat16(), k.bfloat16()
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        more = past is not None and "k" in past
        if past is not None:
            k, v = appended(past, "k", k, 2), appended(past, "v", v, 2)
        o = attend_all(q, k, v) if more else causal_attention(q, k, v)
        return self.attn_output(o.transpose(1, 2).reshape(B, T, self.h * self.hd))


class ShortConv(nn.Module):
    """LFM2: [B; C; X] = Win x; u = B * X; depthwise causal convolution of width K; Wout(C * y)."""

    def __init__(self, c):
        super().__init__()
        d, self.K = c["d"], c["conv_width"]
        self.in_proj = linear(d, 3 * d)
        self.conv = nn.Parameter(torch.randn(d, self.K) * 0.3)
        self.out_proj = linear(d, d, std=0.0)
        with torch.no_grad():
            self.conv[:, -1] += 0.5

    def forward(self, x, rope, past=None):
        b, c, xx = self.in_proj(x).chunk(3, -1)
        u = b * xx
        T = u.shape[1]
        padded = F.pad(u, (0, 0, self.K - 1, 0))
        if past is not None:
            padded = appended(past, "u", u, 1) if "u" in past else padded
            past["u"] = padded[:, -(self.K - 1) :]
        y = sum(padded[:, j : j + T] * self.conv[:, j] for j in range(self.K))
        return self.out_proj(c * y)


class SwiGLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ffn_gate = linear(c["d"], c["ff"])
        self.ffn_up = linear(c["d"], c["ff"])
        self.ffn_down = linear(c["ff"], c["d"], std=0.0)

    def forward(self, x):
        return swiglu(x, self.ffn_gate.weight, self.ffn_up.weight, self.ffn_down.weight, self.training)


class MoE(nn.Module):
    """Softmax router over all experts, the top k by score, weights normalised to sum 1."""

    def __init__(self, c):
        super().__init__()
        E, I, d = c["experts"], c["expert_ff"], c["d"]
        self.E, self.k = E, c["experts_used"]
        self.ffn_gate_inp = linear(d, E, std=0.02)
        self.ffn_gate_exps = nn.Parameter(torch.randn(E, I, d) * d**-0.5)
        self.ffn_up_exps = nn.Parameter(torch.randn(E, I, d) * d**-0.5)
        self.ffn_down_exps = nn.Parameter(torch.zeros(E, d, I))
        self.balance = self.coherence = None

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        score = torch.softmax(self.ffn_gate_inp(flat), -1)
        top, index = score.topk(self.k, -1)
        weight = top / top.sum(-1, keepdim=True)
        order = index.reshape(-1).argsort()
        counts = torch.bincount(index.reshape(-1), minlength=self.E)
        rows = torch.div(order, self.k, rounding_mode="floor")
        parts = flat[rows].split(counts.tolist())
        outs = []
        experts = zip(self.ffn_gate_exps.unbind(0), self.ffn_up_exps.unbind(0), self.ffn_down_exps.unbind(0))
        for part, (gate, up, down) in zip(parts, experts):
            outs.append(swiglu(part, gate, up, down, self.training))
        scaled = torch.cat(outs) * weight.reshape(-1)[order, None]
        if self.training:
            share = counts.to(flat.dtype) / counts.sum()
            self.balance = self.E * (share * score.mean(0)).sum()
            row = score.view(*x.shape[:-1], self.E)
            self.coherence = -(row[:, 1:] * row[:, :-1]).sum(-1).clamp_min(1e-6).log().mean()
        return torch.zeros_like(flat).index_add(0, rows, scaled).view_as(x)


class Block(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        recurrent = c["arch"] == "lfm2" and layer not in c["attention_layers"]
        self.attn_norm = RMSNorm(c["d"], c["eps"])
        self.mixer = ShortConv(c) if recurrent else Attention(c)
        self.ffn_norm = RMSNorm(c["d"], c["eps"])
        self.ffn = MoE(c) if c["arch"] == "qwen3moe" else SwiGLU(c)

    def forward(self, x, rope, past=None):
        half = self.training and half_training
        x = x + self.mixer(self.attn_norm(x, half), rope, past)
        return x + self.ffn(self.ffn_norm(x, half and not isinstance(self.ffn, MoE)))


class Model(nn.Module):
    """config: arch, vocab, d, layers, heads, kv_heads, head_dim, eps, theta, and ff | conv_width + attention_layers |
    experts + experts_used + expert_ff. The output matrix is the embedding (tied)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config["vocab"], config["d"])
        nn.init.normal_(self.token_embd.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config["layers"]))
        self.norm = RMSNorm(config["d"], config["eps"])

    def hidden(self, tokens, positions=None, rope_scale=1.0, past=None):
        """Final normed hidden states [B, T, d] for token ids [B, T]; positions [B, T] or none for 0, 1, 2, ...
        `past` is one dictionary a block, empty at first; it takes all tokens of a prompt, then one token a call."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self.token_embd(tokens)
        cos, sin = rope_tables(self.config["head_dim"], self.config["theta"], positions, rope_scale)
        rope = (cos.to(x)[:, :, None], sin.to(x)[:, :, None])
        for i, block in enumerate(self.blocks):
            x = block(x, rope, past[i] if past is not None else None)
        return self.norm(x)

    def forward(self, tokens, positions=None, rope_scale=1.0):
        return project(self.hidden(tokens, positions, rope_scale), self.token_embd.weight, self.training)

    def routing_loss(self, balance, coherence):
        """What keeps experts in use (1 when all are used alike) and lets neighbours in a text share them (0 when each
        token surely picks what the token before picked), weighted and averaged over the layers."""
        losses = [balance * b.ffn.balance + coherence * b.ffn.coherence for b in self.blocks if isinstance(b.ffn, MoE)]
        return sum(losses) / len(losses) if losses else 0.0

    def gguf_tensors(self):
        """(GGUF name, tensor in PyTorch order, kind) for all weights; kind is "matrix" or "float" (stays F32)."""
        final = "token_embd_norm.weight" if self.config["arch"] == "lfm2" else "output_norm.weight"
        yield "token_embd.weight", self.token_embd.weight, "matrix"
        yield final, self.norm.weight, "float"
        for i, block in enumerate(self.blocks):
            for name, tensor in block.named_parameters():
                name = name.replace("mixer.", "").replace("ffn.", "")
                if isinstance(block.mixer, ShortConv) and name.split(".")[0] in ("in_proj", "conv", "out_proj"):
                    name = "shortconv." + name
                if not name.endswith(".weight"):
                    name += ".weight"
                keep = tensor.dim() == 1 or "shortconv.conv" in name or "ffn_gate_inp" in name
                yield "blk.%d.%s" % (i, name), tensor, "float" if keep else "matrix"


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())
