"""Operations of train_dense.py with hand-written gradients, numpy float32. Rows are tokens."""

import numpy as np


def rms_norm(x, gain, epsilon):
    inverse = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(epsilon))
    normed = x * inverse
    return normed * gain, (normed, inverse)


def rms_norm_back(dy, saved, gain):
    """(gradient of x, of the gain)"""
    normed, inverse = saved
    g = dy * gain
    dx = inverse * (g - normed * (g * normed).mean(-1, keepdims=True))
    return dx, (dy * normed).sum(0)


def swiglu(gate, up):
    sigmoid = 1 / (1 + np.exp(-gate))
    silu = gate * sigmoid
    return silu * up, (silu, sigmoid, up)


def swiglu_back(dy, saved):
    """(gradient of gate, of up); silu' = s + g s - g s^2"""
    silu, sigmoid, up = saved
    return dy * up * (sigmoid + silu - silu * sigmoid), dy * silu


class Attention:
    """Causal, grouped queries, RoPE on neighbours (2i, 2i + 1); windows of one length."""

    def __init__(self, n_heads, n_kv, head_dim, length, theta):
        self.n_heads, self.n_kv, self.head_dim, self.length = n_heads, n_kv, head_dim, length
        frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
        angles = np.arange(length)[:, None] * frequency[None]
        self.cos = np.cos(angles).astype(np.float32)[:, None]
        self.sin = np.sin(angles).astype(np.float32)[:, None]
        self.future = np.triu(np.ones((length, length), bool), 1)
        self.scale = np.float32(head_dim**-0.5)

    def rotate(self, x, sign):
        """x: [n, length, heads, head_dim]; sign -1 turns back."""
        out = np.empty_like(x)
        even, odd, sin = x[..., 0::2], x[..., 1::2], self.sin * np.float32(sign)
        out[..., 0::2] = even * self.cos - odd * sin
        out[..., 1::2] = even * sin + odd * self.cos
        return out

    def split(self, x, n, heads):
        return x.reshape(n, self.length, heads, self.head_dim)

    def by_head(self, x):
        """[n, length, heads, head_dim] -> [n, kv, group * length, head_dim]"""
        n, length, heads, head_dim = x.shape
        group = heads // self.n_kv
        x = x.reshape(n, length, self.n_kv, group, head_dim).transpose(0, 2, 3, 1, 4)
        return np.ascontiguousarray(x).reshape(n, self.n_kv, group * length, head_dim)

    def by_token(self, x, heads):
        """by_head undone, to rows."""
        n, group = x.shape[0], heads // self.n_kv
        x = x.reshape(n, self.n_kv, group, self.length, self.head_dim).transpose(0, 3, 1, 2, 4)
        return np.ascontiguousarray(x).reshape(n, self.length, heads, self.head_dim)

    def forward(self, q, k, v, n):
        q = self.by_head(self.rotate(self.split(q, n, self.n_heads), 1))
        k = self.by_head(self.rotate(self.split(k, n, self.n_kv), 1))
        v = self.by_head(self.split(v, n, self.n_kv))
        scores = q @ k.transpose(0, 1, 3, 2) * self.scale
        scores = scores.reshape(n, self.n_kv, -1, self.length, self.length)
        scores[..., self.future] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        p = scores.reshape(n, self.n_kv, -1, self.length)
        out = self.by_token(p @ v, self.n_heads)
        return out.reshape(n * self.length, -1), (q, k, v, p)

    def backward(self, d_out, saved, n):
        """Gradients of q, k and v as forward() takes them."""
        q, k, v, p = saved
        d_out = self.by_head(self.split(d_out, n, self.n_heads))
        dv = p.transpose(0, 1, 3, 2) @ d_out
        dp = d_out @ v.transpose(0, 1, 3, 2)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * self.scale
        dq = self.rotate(self.by_token(ds @ k, self.n_heads), -1)
        dk = self.rotate(self.by_token(ds.transpose(0, 1, 3, 2) @ q, self.n_kv), -1)
        dv = self.by_token(dv, self.n_kv)
        return [x.reshape(n * self.length, -1) for x in (dq, dk, dv)]


class Head:
    CHUNK = 512

    @staticmethod
    def loss(y, embedding, targets, want_gradients):
        """(mean cross entropy, gradient of y, of the embedding)"""
        n = len(y)
        total, dy = 0.0, np.zeros_like(y)
        d_embedding = np.zeros_like(embedding) if want_gradients else None
        for first in range(0, n, Head.CHUNK):
            rows = slice(first, first + Head.CHUNK)
            logits = y[rows] @ embedding.T
            logits -= logits.max(-1, keepdims=True)
            index = np.arange(len(logits)), targets[rows]
            picked = logits[index].copy()
            np.exp(logits, out=logits)
            sums = logits.sum(-1, keepdims=True)
            total += float((np.log(sums[:, 0]) - picked).sum())
            if want_gradients:
                logits /= sums
                logits[index] -= 1
                logits *= np.float32(1 / n)
                dy[rows] = logits @ embedding
                d_embedding += logits.T @ y[rows]
        return total / n, dy, d_embedding
