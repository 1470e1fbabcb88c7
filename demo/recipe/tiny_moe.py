"""The model that train_tiny_moe.py trains; parameter names are those of its checkpoints."""

import math
from typing import NamedTuple

import torch

from autograd_ops import Attention, Experts, HeadCrossEntropy, Linear, RmsNorm

RMS_EPSILON = 1e-6


class Routing(NamedTuple):
    balance: torch.Tensor  # load-balancing loss, 1 where all experts are used alike
    z_loss: torch.Tensor  # mean squared log-sum-exp of the router's logits
    use: torch.Tensor  # [n_experts] share of the assignments


class RopeTables(NamedTuple):
    cos: torch.Tensor  # [length, 1, head_dim / 2]
    sin: torch.Tensor
    mask: torch.Tensor  # [group * length, length], causal


def rotate(x, tables):
    """RoPE on x [batch, length, heads, head_dim]; element i turns with i + head_dim / 2."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = [first * tables.cos - second * tables.sin, second * tables.cos + first * tables.sin]
    return torch.cat(turned, -1)


def normal(*shape, std):
    return torch.nn.Parameter(torch.randn(*shape) * std)


def ones(size):
    return torch.nn.Parameter(torch.ones(size))


class Block(torch.nn.Module):
    def __init__(self, settings, dtype):
        super().__init__()
        self.settings = settings
        self.dtype = dtype
        d, ff, n_experts = settings.d, settings.ff, settings.experts
        q_size, kv_size = settings.heads * settings.hd, settings.kv * settings.hd
        out_std = 0.02 / math.sqrt(2 * settings.layers)
        self.n1, self.n2 = ones(d), ones(d)
        self.qn, self.kn = ones(settings.hd), ones(settings.hd)
        # The order of these fixes what a seed means.
        self.wqkv = normal(q_size + 2 * kv_size, d, std=0.04)
        self.wo = normal(d, q_size, std=out_std * 2)
        self.wr = normal(n_experts, d, std=0.02)
        self.wgu = normal(n_experts, 2 * ff, d, std=0.04)
        self.wd = normal(n_experts, d, ff, std=out_std * 3)

    def norm(self, x, gain):
        return RmsNorm.apply(x, gain, RMS_EPSILON, self.dtype)

    def attention(self, h, batch, length, tables):
        n_heads, n_kv, d = self.settings.heads, self.settings.kv, self.settings.hd
        group = n_heads // n_kv
        qkv = Linear.apply(self.norm(h, self.n1), self.wqkv, self.dtype)
        qkv = qkv.view(batch, length, n_heads + 2 * n_kv, d)
        q = self.norm(qkv[:, :, :n_heads], self.qn).float()
        k = self.norm(qkv[:, :, n_heads : n_heads + n_kv], self.kn).float()
        q = rotate(q, tables).to(self.dtype).view(batch, length, n_kv, group, d)
        k = rotate(k, tables).to(self.dtype)
        v = qkv[:, :, n_heads + n_kv :]
        q = q.permute(0, 2, 3, 1, 4).reshape(batch * n_kv, group * length, d)
        k = k.transpose(1, 2).reshape(batch * n_kv, length, d)
        v = v.transpose(1, 2).reshape(batch * n_kv, length, d)
        out = Attention.apply(q, k, v, tables.mask, d**-0.5).view(batch, n_kv, group, length, d)
        out = out.permute(0, 3, 1, 2, 4).reshape(batch * length, n_heads * d)
        return Linear.apply(out, self.wo, self.dtype).float()

    def route(self, x):
        """(chosen experts, their renormalised weights, statistics)."""
        n_experts = self.settings.experts
        logits = x.float() @ self.wr.t()
        probabilities = torch.softmax(logits, -1)
        top, chosen = probabilities.topk(self.settings.topk, -1)
        shares = top / top.sum(-1, keepdim=True)
        use = torch.bincount(chosen.reshape(-1), minlength=n_experts).float() / chosen.numel()
        balance = n_experts * (use * probabilities.mean(0)).sum()
        z_loss = torch.logsumexp(logits, -1).pow(2).mean()
        return chosen, shares, Routing(balance, z_loss, use)

    def forward(self, h, batch, length, tables):
        """h: [batch * length, d] float32 -> (the same, Routing)."""
        h = h + self.attention(h, batch, length, tables)
        x = self.norm(h, self.n2)
        chosen, shares, routing = self.route(x)
        return h + Experts.apply(x, self.wgu, self.wd, chosen, shares), routing


class Model(torch.nn.Module):
    def __init__(self, n_vocab, settings):
        super().__init__()
        self.settings = settings
        self.dtype = torch.float32 if settings.fp32 else torch.bfloat16
        self.emb = normal(n_vocab, settings.d, std=0.02)
        self.nf = ones(settings.d)
        self.blk = torch.nn.ModuleList(
            Block(settings, self.dtype) for _ in range(settings.layers)
        )
        self.tables_of_length = {}

    def tables(self, length):
        if length not in self.tables_of_length:
            settings = self.settings
            exponents = torch.arange(0, settings.hd, 2).float() / settings.hd
            angles = torch.arange(length)[:, None] * (settings.theta**-exponents)[None]
            mask = torch.full((length, length), float("-inf")).triu(1)
            self.tables_of_length[length] = RopeTables(
                angles.cos()[None, :, None],
                angles.sin()[None, :, None],
                mask.repeat(settings.heads // settings.kv, 1),
            )
        return self.tables_of_length[length]

    def forward(self, ids):
        """ids [batch, length] -> (normed hidden state [batch * length, d], [Routing] a layer)."""
        batch, length = ids.shape
        tables = self.tables(length)
        routing = []
        h = torch.nn.functional.embedding(ids.reshape(-1), self.emb)
        for block in self.blk:
            h, layer_routing = block(h, batch, length, tables)
            routing.append(layer_routing)
        return RmsNorm.apply(h, self.nf, RMS_EPSILON, self.dtype), routing

    def loss(self, ids, targets):
        """(cross entropy, mean load-balancing loss, mean z-loss, [Routing])."""
        hidden, routing = self(ids)
        n_layers = len(routing)
        cross_entropy = HeadCrossEntropy.apply(
            hidden.float(), self.emb, targets.reshape(-1), self.dtype
        )
        balance = sum(layer.balance for layer in routing) / n_layers
        z_loss = sum(layer.z_loss for layer in routing) / n_layers
        return cross_entropy, balance, z_loss, routing

    def count_parameters(self):
        """(all, those that one token uses)."""
        sizes = {name: parameter.numel() for name, parameter in self.named_parameters()}
        total = sum(sizes.values())
        in_experts = sum(n for name, n in sizes.items() if name.endswith(("wgu", "wd")))
        used = in_experts * self.settings.topk // self.settings.experts
        return total, total - in_experts + used
