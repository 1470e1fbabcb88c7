"""Trains a tiny mixture-of-experts language model of Qwen3-MoE's architecture on a few CPU cores.

    python train_tiny_moe.py --data data4k --out run1 --minutes 90

Architecture as Qwen3MoeForCausalLM: RMSNorm, GQA with QK-norm per head, RoPE on half rows, SwiGLU
experts, softmax router, top-k, renormalised weights, no shared expert, no biases, tied embedding.
Matrix products run in bfloat16, master weights are float32; --fp32 makes everything float32.
"""

import argparse
import json
import math
import os
import time

# Read by OpenMP and oneDNN when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "16384")  # the experts' batches come in many sizes

import numpy as np  # noqa: E402
import torch  # noqa: E402

from bpe import Tokenizer  # noqa: E402
from tiny_moe import Model  # noqa: E402

DEFAULTS = {
    "data": "data4k",
    "out": "run",
    "d": 256,
    "layers": 6,
    "heads": 4,
    "kv": 1,
    "hd": 64,
    "experts": 32,
    "topk": 4,
    "ff": 64,
    "seq": 256,
    "seq2": 512,
    "seq2_frac": 0.2,
    "simple_frac": 0.25,
    "tokens": 4096,
    "minutes": 90.0,
    "lr": 3e-3,
    "lr_end": 3e-5,
    "warmup": 120,
    "wd": 0.1,
    "aux": 0.01,
    "zloss": 1e-3,
    "theta": 10000.0,
    "threads": 2,
    "eval_every": 6.0,
    "save_every": 5.0,
    "seed": 1,
    "max_steps": 0,
    "max_tokens": 0,
    "clip": 1.0,
}
SAMPLE_PROMPTS = ("Once upon a time", "One day Peter Rabbit", '"Oh, dear!" said')
EVALUATION_BATCH = 16


def parse_arguments():
    parser = argparse.ArgumentParser()
    for name, value in DEFAULTS.items():
        parser.add_argument("--" + name, type=type(value), default=value)
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def stack_windows(ids, starts, length):
    """int64 [len(starts), length + 1]: inputs and, shifted by one, targets."""
    windows = [ids[start : start + length + 1] for start in starts]
    return torch.from_numpy(np.stack(windows).astype(np.int64))


def loss_of(model, windows):
    return model.loss(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


@torch.no_grad()
def sample(model, tokenizer, prompt, n_tokens=110, temperature=0.7, top_p=0.95, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = [tokenizer.end_of_text] + tokenizer.encode(prompt)
    for _ in range(n_tokens):
        hidden, _ = model(torch.tensor([ids[-model.settings.seq :]]))
        logits = (hidden[-1].float() @ model.emb.t()) / temperature
        probabilities, order = torch.softmax(logits, -1).sort(descending=True)
        probabilities = probabilities * ((probabilities.cumsum(0) - probabilities) < top_p)
        token = int(order[torch.multinomial(probabilities, 1, generator=generator)])
        if token == tokenizer.end_of_text:
            break
        ids.append(token)
    return tokenizer.decode(ids[1:])


@torch.no_grad()
def evaluate(model, ids, length):
    """(nats per token, normalised entropy of expert use in each layer)."""
    n_windows = (len(ids) - 1) // length
    n_experts = model.settings.experts
    total = 0.0
    n_done = 0
    use = [torch.zeros(n_experts) for _ in model.blk]
    for first in range(0, n_windows, EVALUATION_BATCH):
        last = min(n_windows, first + EVALUATION_BATCH)
        windows = stack_windows(ids, [j * length for j in range(first, last)], length)
        loss, _, _, routing = loss_of(model, windows)
        total += loss.item() * len(windows)
        n_done += len(windows)
        for layer_use, layer in zip(use, routing):
            layer_use += layer.use * len(windows)
    shares = [layer_use / n_done for layer_use in use]
    entropies = [float(-(s * (s + 1e-9).log()).sum() / math.log(n_experts)) for s in shares]
    return total / n_done, entropies


class Batches:
    """Shuffled windows of the training text; the last phase is longer and of the simplest prose."""

    def __init__(self, settings, ids, simple_from, rng):
        self.settings = settings
        self.ids = ids
        self.simple_from = simple_from
        self.rng = rng
        self.order = None
        self.position = 0
        self.phase = None

    def next(self, progress):
        settings = self.settings
        length = settings.seq2 if progress > 1 - settings.seq2_frac else settings.seq
        start = self.simple_from if progress > 1 - settings.simple_frac else 0
        n_windows = max(1, settings.tokens // length)
        if (length, start) != self.phase or self.position + n_windows > len(self.order):
            offset = start + int(self.rng.integers(0, length))
            n_available = (len(self.ids) - 1 - offset) // length
            self.order = offset + length * self.rng.permutation(n_available)
            self.position = 0
            self.phase = (length, start)
        starts = self.order[self.position : self.position + n_windows]
        self.position += n_windows
        return stack_windows(self.ids, starts, length)


def make_optimizer(model, settings):
    """AdamW; weight decay on matrices other than the embedding."""
    decayed = []
    plain = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim >= 2 and name != "emb" else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.wd},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), eps=1e-9, foreach=False)


def learning_rate(settings, step, progress):
    """Linear warm-up, then a cosine from lr to lr_end."""
    floor = settings.lr_end / settings.lr
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    warmup = min(1.0, (step + 1) / settings.warmup)
    return settings.lr * warmup * (cosine * (1 - floor) + floor)


class Trainer:
    """The state of a run. Time spent on evaluation isn't charged to the schedule."""

    def __init__(self, settings):
        self.settings = settings
        self.tokenizer = Tokenizer.load(settings.data)
        with open(os.path.join(settings.data, "meta.json"), encoding="utf-8") as source:
            self.meta = json.load(source)
        self.simple_from = self.meta.get("simple_from", [0, 0])
        train_ids = np.load(os.path.join(settings.data, "train.npy"))
        self.val_ids = np.load(os.path.join(settings.data, "val.npy"))
        self.model = Model(len(self.tokenizer.tokens), settings)
        self.optimizer = make_optimizer(self.model, settings)
        self.step = 0
        self.seconds_spent = 0.0
        self.tokens_seen = 0
        self.loss_average = None
        rng = np.random.default_rng(settings.seed)
        self.checkpoint = os.path.join(settings.out, "ckpt.pt")
        if settings.resume and os.path.exists(self.checkpoint):
            self.load()
            rng = np.random.default_rng(settings.seed + self.step)
        self.batches = Batches(settings, train_ids, self.simple_from[0], rng)
        self.log_path = os.path.join(settings.out, "log.jsonl")
        self.session_start = time.time()
        self.session_tokens = self.tokens_seen
        self.clock = self.session_start

    def load(self):
        state = torch.load(self.checkpoint)
        self.model.load_state_dict(state["m"])
        self.optimizer.load_state_dict(state["o"])
        self.step, self.seconds_spent = state["step"], state["spent"]
        self.tokens_seen = state["seen"]
        print(f"resumed at step {self.step} after {self.seconds_spent / 60:.1f} min", flush=True)

    def save(self):
        state = {
            "m": self.model.state_dict(),
            "o": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.seconds_spent,
            "seen": self.tokens_seen,
            "a": vars(self.settings),
        }
        partial = os.path.join(self.settings.out, "ckpt.tmp")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def progress(self):
        """0 to 1, by tokens where max_tokens is given (for a busy machine), else by time."""
        if self.settings.max_tokens:
            return self.tokens_seen / self.settings.max_tokens
        return self.seconds_spent / (self.settings.minutes * 60)

    def finished(self):
        max_steps = self.settings.max_steps
        return self.progress() >= 1 or bool(max_steps and self.step >= max_steps)

    def log(self, record):
        print(record, flush=True)
        with open(self.log_path, "a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")

    def train_step(self):
        settings = self.settings
        progress = self.progress()
        windows = self.batches.next(progress)
        rate = learning_rate(settings, self.step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, balance, z_loss, _ = loss_of(self.model, windows)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + settings.aux * balance + settings.zloss * z_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()

        self.step += 1
        self.tokens_seen += windows.shape[0] * (windows.shape[1] - 1)
        now = time.time()
        self.seconds_spent += now - self.clock
        self.clock = now
        average = self.loss_average
        self.loss_average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        if self.step % 20 == 0 or self.step < 4:
            self.log_step(loss, balance, norm, rate)

    def log_step(self, loss, balance, norm, rate):
        tokens = self.tokens_seen - self.session_tokens
        self.log(
            {
                "step": self.step,
                "min": round(self.seconds_spent / 60, 2),
                "tok": self.tokens_seen,
                "loss": round(loss.item(), 4),
                "ema": round(self.loss_average, 4),
                "aux": round(balance.item(), 3),
                "gn": round(float(norm), 2),
                "lr": round(rate, 6),
                "tps": int(tokens / (time.time() - self.session_start)),
            }
        )

    def log_evaluation(self):
        length = self.settings.seq
        loss, entropies = evaluate(self.model, self.val_ids, length)
        simple_loss, _ = evaluate(self.model, self.val_ids[self.simple_from[1] :], length)
        tokens_per_byte = self.meta["val_tokens"] / self.meta["val_bytes"]
        self.log(
            {
                "step": self.step,
                "min": round(self.seconds_spent / 60, 2),
                "val": round(loss, 4),
                "val_simple": round(simple_loss, 4),
                "bpb": round(loss / math.log(2) * tokens_per_byte, 4),
                "ent": [round(entropy, 3) for entropy in entropies],
            }
        )
        for prompt in SAMPLE_PROMPTS:
            text = sample(self.model, self.tokenizer, prompt).replace("\n", " / ")
            print("   >>", text, flush=True)

    def run(self):
        eval_every, save_every = self.settings.eval_every * 60, self.settings.save_every * 60
        next_evaluation = self.seconds_spent + eval_every
        next_save = self.seconds_spent + save_every
        while not self.finished():
            self.train_step()
            if self.seconds_spent >= next_evaluation or self.progress() >= 1:
                self.log_evaluation()
                next_evaluation = self.seconds_spent + eval_every
                self.clock = time.time()
            if self.seconds_spent >= next_save:
                self.save()
                next_save = self.seconds_spent + save_every
                self.clock = time.time()
        self.save()
        print(f"done: {self.step} steps, {self.tokens_seen} tokens", flush=True)


def main():
    settings = parse_arguments()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    os.makedirs(settings.out, exist_ok=True)
    trainer = Trainer(settings)
    total, active = trainer.model.count_parameters()
    embedding = trainer.model.emb.numel()
    print(
        f"parameters: {total / 1e6:.2f} M, {active / 1e6:.2f} M active, "
        f"of these {embedding / 1e6:.2f} M embedding and head",
        flush=True,
    )
    trainer.run()


if __name__ == "__main__":
    main()
