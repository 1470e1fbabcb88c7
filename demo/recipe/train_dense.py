"""Trains a small dense language model of Llama's architecture on texts of several domains.

    python train_dense.py DOMAINS out.gguf --tokenizer ../hearthside-q8_0.gguf --tokens 1500000

DOMAINS is a folder of text files, one a domain (build_domains.py). The last tenth of each one's
tokens is not trained on. --stop N ends after N steps of the schedule that --tokens makes. RMSNorm,
grouped-query attention, RoPE on neighbours, SwiGLU, tied embedding, no biases; float32 and one
thread of numpy, gradients written by hand. The tokenizer is that of another GGUF file.
"""

import argparse
import glob
import math
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402

import gguf_min  # noqa: E402
from bpe import Tokenizer  # noqa: E402
from dense_ops import Attention, Head, rms_norm, rms_norm_back, swiglu, swiglu_back  # noqa: E402

EPSILON = 1e-5
THETA = 10000.0
BETAS = (0.9, 0.95)
TRAINED_SHARE = 0.9
VALUE_KINDS = {4: "u32", 6: "f32", 7: "bool", 8: "str"}


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("domains")
    parser.add_argument("out")
    parser.add_argument("--tokenizer", required=True, help="GGUF file that has it")
    for name, value in {
        "d": 192, "layers": 4, "heads": 6, "kv": 2, "ff": 768, "length": 128, "windows": 16,
        "tokens": 1500000, "stop": 0, "seed": 1, "lr": 3e-3, "warmup": 60, "decay": 0.1,
    }.items():
        parser.add_argument("--" + name, type=type(value), default=value)
    return parser.parse_args()


class Model:
    """Parameters by GGUF name, [out, in]; forward and backward pass of whole windows."""

    def __init__(self, n_vocab, settings):
        rng = np.random.default_rng(settings.seed)
        self.s = s = settings
        hd = s.d // s.heads
        shrink = 1 / math.sqrt(2 * s.layers)
        self.p = {"token_embd": self.normal(rng, n_vocab, s.d, 0.02)}
        for layer in range(s.layers):
            for name, rows, cols, std in (
                ("attn_q", s.d, s.d, 0.04), ("attn_k", s.kv * hd, s.d, 0.04),
                ("attn_v", s.kv * hd, s.d, 0.04), ("attn_output", s.d, s.d, 0.04 * shrink),
                ("ffn_gate", s.ff, s.d, 0.05), ("ffn_up", s.ff, s.d, 0.05),
                ("ffn_down", s.d, s.ff, 0.04 * shrink),
            ):
                self.p[f"blk.{layer}.{name}"] = self.normal(rng, rows, cols, std)
            for name in ("attn_norm", "ffn_norm"):
                self.p[f"blk.{layer}.{name}"] = np.ones(s.d, np.float32)
        self.p["output_norm"] = np.ones(s.d, np.float32)
        self.attention = Attention(s.heads, s.kv, hd, s.length, THETA)

    @staticmethod
    def normal(rng, rows, cols, std):
        return (rng.standard_normal((rows, cols)) * std).astype(np.float32)

    def layer(self, i):
        prefix = f"blk.{i}."
        return {k[len(prefix):]: v for k, v in self.p.items() if k.startswith(prefix)}

    def loss(self, windows, want_gradients=True):
        """windows: [n, length + 1] token ids. (mean nats a token, gradients by name)."""
        ids, targets = windows[:, :-1].reshape(-1), windows[:, 1:].reshape(-1)
        n = len(windows)
        x = self.p["token_embd"][ids]
        saved = []
        for i in range(self.s.layers):
            w = self.layer(i)
            a, a_norm = rms_norm(x, w["attn_norm"], EPSILON)
            q, k, v = (a @ w[f"attn_{name}"].T for name in "qkv")
            mixed, attention = self.attention.forward(q, k, v, n)
            x = x + mixed @ w["attn_output"].T
            b, b_norm = rms_norm(x, w["ffn_norm"], EPSILON)
            hidden, kept = swiglu(b @ w["ffn_gate"].T, b @ w["ffn_up"].T)
            x = x + hidden @ w["ffn_down"].T
            saved.append((a, a_norm, mixed, attention, b, b_norm, hidden, kept))
        y, y_norm = rms_norm(x, self.p["output_norm"], EPSILON)
        loss, dy, d_embedding = Head.loss(y, self.p["token_embd"], targets, want_gradients)
        if not want_gradients:
            return loss, None
        grads = {}
        dx, grads["output_norm"] = rms_norm_back(dy, y_norm, self.p["output_norm"])
        for i in reversed(range(self.s.layers)):
            dx = self.layer_back(i, dx, saved.pop(), n, grads)
        np.add.at(d_embedding, ids, dx)
        grads["token_embd"] = d_embedding
        return loss, grads

    def layer_back(self, i, dx, saved, n, grads):
        a, a_norm, mixed, attention, b, b_norm, hidden, kept = saved
        w, at = self.layer(i), f"blk.{i}."
        grads[at + "ffn_down"] = dx.T @ hidden
        d_gate, d_up = swiglu_back(dx @ w["ffn_down"], kept)
        grads[at + "ffn_gate"], grads[at + "ffn_up"] = d_gate.T @ b, d_up.T @ b
        db = d_gate @ w["ffn_gate"] + d_up @ w["ffn_up"]
        through, grads[at + "ffn_norm"] = rms_norm_back(db, b_norm, w["ffn_norm"])
        dx = dx + through
        grads[at + "attn_output"] = dx.T @ mixed
        da = 0
        for name, d in zip("qkv", self.attention.backward(dx @ w["attn_output"], attention, n)):
            grads[at + "attn_" + name] = d.T @ a
            da = da + d @ w["attn_" + name]
        through, grads[at + "attn_norm"] = rms_norm_back(da, a_norm, w["attn_norm"])
        return dx + through


class AdamW:
    """Weight decay on matrices other than the embedding; gradients clipped to norm 1."""

    def __init__(self, parameters, decay):
        self.m = {k: np.zeros_like(v) for k, v in parameters.items()}
        self.v = {k: np.zeros_like(v) for k, v in parameters.items()}
        self.decay = decay
        self.t = 0

    def step(self, parameters, grads, rate):
        self.t += 1
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        scale = min(1.0, 1.0 / (norm + 1e-6))
        corrections = [1 - beta**self.t for beta in BETAS]
        for name, p in parameters.items():
            g = grads[name] * np.float32(scale)
            m, v = self.m[name], self.v[name]
            m += np.float32(1 - BETAS[0]) * (g - m)
            v += np.float32(1 - BETAS[1]) * (g * g - v)
            if p.ndim == 2 and name != "token_embd":
                p *= np.float32(1 - rate * self.decay)
            p -= np.float32(rate / corrections[0]) * m / (
                np.sqrt(v * np.float32(1 / corrections[1])) + np.float32(1e-8))
        return norm


def load_texts(settings, tokenizer):
    """{domain: (token ids trained on, ids held out)}"""
    texts = {}
    for path in sorted(glob.glob(os.path.join(settings.domains, "*.txt"))):
        with open(path, encoding="ascii") as source:
            ids = np.array(tokenizer.encode(source.read()), np.int64)
        cut = int(len(ids) * TRAINED_SHARE)
        name = os.path.splitext(os.path.basename(path))[0]
        texts[name] = ids[:cut], ids[cut:]
        print(f"{name}: {len(ids)} tokens", flush=True)
    return texts


def batches(texts, settings, rng):
    """Windows of all domains alike, in any order, each [windows, length + 1]."""
    streams = [train for train, _ in texts.values()]
    while True:
        picked = rng.permutation(settings.windows) % len(streams)
        starts = [int(rng.integers(0, len(streams[i]) - settings.length - 1)) for i in picked]
        yield np.stack([streams[i][s : s + settings.length + 1] for i, s in zip(picked, starts)])


def evaluate(model, texts, settings, most=32):
    """{domain: nats a token of its held-out text}"""
    span = settings.length
    losses = {}
    for name, (_, ids) in texts.items():
        starts = range(0, min(len(ids) - span - 1, most * span), span)
        windows = np.stack([ids[s : s + span + 1] for s in starts])
        losses[name] = round(float(model.loss(windows, False)[0]), 3)
    return losses


def tokenizer_entries(reader):
    entries = []
    for key, value in reader.metadata.items():
        if not key.startswith("tokenizer."):
            continue
        kind = VALUE_KINDS.get(reader.value_types[key])
        if kind is None:
            is_text = isinstance(value, list)
            kind = "arr_str" if is_text else ("arr_f32" if value.dtype.kind == "f" else "arr_i32")
        entries.append((key, kind, value))
    return entries


def export(model, reader, settings, path):
    counts = {
        "block_count": settings.layers, "context_length": 512, "embedding_length": settings.d,
        "feed_forward_length": settings.ff, "attention.head_count": settings.heads,
        "attention.head_count_kv": settings.kv,
        "rope.dimension_count": settings.d // settings.heads,
        "vocab_size": len(model.p["token_embd"]),
    }
    metadata = [("general.architecture", "str", "llama"), ("general.name", "str", "Dense demo"),
                ("general.file_type", "u32", 1)]
    metadata += [("llama." + key, "u32", value) for key, value in counts.items()]
    metadata += [("llama.rope.freq_base", "f32", THETA),
                 ("llama.attention.layer_norm_rms_epsilon", "f32", EPSILON)]
    metadata += tokenizer_entries(reader)
    tensors = [(name + ".weight", values, "F32" if values.ndim == 1 else "F16")
               for name, values in model.p.items()]
    gguf_min.write(path + ".part", metadata, tensors)
    os.replace(path + ".part", path)


def main():
    settings = parse_arguments()
    reader = gguf_min.Reader(settings.tokenizer)
    merges = [merge.split(" ") for merge in reader.metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(merges)
    assert tokenizer.tokens == reader.metadata["tokenizer.ggml.tokens"]
    texts = load_texts(settings, tokenizer)
    model = Model(len(tokenizer.tokens), settings)
    optimizer = AdamW(model.p, settings.decay)
    print(f"{sum(v.size for v in model.p.values()) / 1e6:.2f} M parameters", flush=True)
    n_steps = settings.tokens // (settings.windows * settings.length)
    started = time.time()
    stream = batches(texts, settings, np.random.default_rng(settings.seed))
    for step in range(min(n_steps, settings.stop) if settings.stop else n_steps):
        warm = min(1.0, (step + 1) / settings.warmup)
        rate = settings.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / n_steps)))
        loss, grads = model.loss(next(stream))
        norm = optimizer.step(model.p, grads, rate)
        if step % 10 == 0:
            print(f"step {step} of {n_steps}, loss {loss:.3f}, norm {norm:.2f}, "
                  f"{time.time() - started:.0f} s", flush=True)
        if step % 200 == 199:
            print(evaluate(model, texts, settings), flush=True)
            export(model, reader, settings, settings.out)
    print(evaluate(model, texts, settings), flush=True)
    export(model, reader, settings, settings.out)


if __name__ == "__main__":
    main()
