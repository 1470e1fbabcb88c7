"""A float64 forward pass over a qwen3moe GGUF file, in numpy and independent of the runtime.

    python reference_forward.py MODEL.gguf TEXT [WINDOW]

prints the perplexity of a text as llama-perplexity defines it: windows of WINDOW tokens (256), each
with BOS in place of its first token, of which the second half is scored.
"""

import sys

import numpy as np

import gguf_min
from bpe import Tokenizer

RMS_EPSILON = 1e-6


def rms_norm(x, gain):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + RMS_EPSILON) * gain


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class ReferenceModel:
    def __init__(self, path):
        self.file = gguf_min.Reader(path)
        self.weights = {
            name: self.file.tensor(name).astype(np.float64) for name in self.file.tensors
        }
        self.n_layers = self.get("block_count")
        self.n_heads = self.get("attention.head_count")
        self.n_kv_heads = self.get("attention.head_count_kv")
        self.head_dim = self.get("attention.key_length")
        self.top_k = self.get("expert_used_count")
        self.rope_base = self.get("rope.freq_base")

    def get(self, key):
        return self.file.metadata["qwen3moe." + key]

    def layer(self, index, name):
        return self.weights[f"blk.{index}.{name}.weight"]

    def rotate(self, x):
        """x: [n_tokens, n_heads, head_dim]."""
        half = self.head_dim // 2
        exponents = -np.arange(0, self.head_dim, 2) / self.head_dim
        angles = np.arange(len(x))[:, None] * self.rope_base**exponents
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def attention(self, index, x):
        n_tokens = len(x)
        q, k, v = (
            (x @ self.layer(index, f"attn_{name}").T).reshape(n_tokens, -1, self.head_dim)
            for name in "qkv"
        )
        q = self.rotate(rms_norm(q, self.layer(index, "attn_q_norm")))
        k = self.rotate(rms_norm(k, self.layer(index, "attn_k_norm")))
        k, v = (np.repeat(z, self.n_heads // self.n_kv_heads, 1) for z in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(self.head_dim)
        scores += np.triu(np.full((n_tokens, n_tokens), -np.inf), 1)
        mixed = np.einsum("hij,jhd->ihd", softmax(scores), v)
        return mixed.reshape(n_tokens, -1) @ self.layer(index, "attn_output").T

    def experts(self, index, x):
        """(output, chosen experts by descending probability [n_tokens, top_k])."""
        probabilities = softmax(x @ self.layer(index, "ffn_gate_inp").T)
        chosen = np.argsort(-probabilities, -1, kind="stable")[:, : self.top_k]
        shares = np.take_along_axis(probabilities, chosen, -1)
        shares /= shares.sum(-1, keepdims=True)
        w_gate = self.layer(index, "ffn_gate_exps")
        w_up = self.layer(index, "ffn_up_exps")
        w_down = self.layer(index, "ffn_down_exps")
        out = np.zeros_like(x)
        for token, row in enumerate(x):
            for expert, share in zip(chosen[token], shares[token]):
                gate = w_gate[expert] @ row
                silu = gate / (1 + np.exp(-gate))
                out[token] += share * (w_down[expert] @ (silu * (w_up[expert] @ row)))
        return out, chosen

    def __call__(self, ids):
        """(logits [n_tokens, n_vocab], routing [n_layers][n_tokens][top_k])."""
        h = self.weights["token_embd.weight"][ids]
        routing = []
        for index in range(self.n_layers):
            h = h + self.attention(index, rms_norm(h, self.layer(index, "attn_norm")))
            out, chosen = self.experts(index, rms_norm(h, self.layer(index, "ffn_norm")))
            h = h + out
            routing.append(chosen.tolist())
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return rms_norm(h, self.weights["output_norm.weight"]) @ head.T, routing

    def tokenizer(self):
        merges = self.file.metadata["tokenizer.ggml.merges"]
        return Tokenizer([merge.split(" ") for merge in merges])


def perplexity(model, ids, bos, window):
    n_windows = len(ids) // window
    half = window // 2
    total = 0.0
    n_scored = 0
    for index in range(n_windows):
        chunk = list(ids[index * window : (index + 1) * window])
        inputs = [bos] + chunk[1:]
        logits, _ = model(np.array(inputs))
        scored = logits[half:-1]
        log_sum = np.log(np.exp(scored - scored.max(-1, keepdims=True)).sum(-1)) + scored.max(-1)
        targets = np.array(chunk[half + 1 :])
        total += (log_sum - scored[np.arange(len(targets)), targets]).sum()
        n_scored += len(targets)
    return float(np.exp(total / n_scored)), n_windows


def main():
    model = ReferenceModel(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as source:
        text = source.read()
    window = int(sys.argv[3]) if len(sys.argv) > 3 else 256
    tokenizer = model.tokenizer()
    bos = tokenizer.end_of_text
    value, n_windows = perplexity(model, [bos] + tokenizer.encode(text), bos, window)
    print(f"perplexity {value:.3f} over {n_windows} windows of {window} tokens")


if __name__ == "__main__":
    main()
