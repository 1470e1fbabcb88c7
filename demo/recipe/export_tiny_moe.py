"""Exports a checkpoint of train_tiny_moe.py.

    python export_tiny_moe.py run1/ckpt.pt data4k out --gguf Q8_0 F16 --safetensors BF16

Writes GGUF files (architecture qwen3moe, llama.cpp's tensor names, tokenizer inside), a Hugging
Face folder, and golden.json: prompt token ids, logits of the prompt's last position, greedy
continuation and routing, computed in float64 from the weights as stored in each GGUF file.
"""

import argparse
import json
import os

import numpy as np

import gguf_min
import hf_folder
from bpe import SPECIALS, Tokenizer
from reference_forward import ReferenceModel

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
NORMAL_TOKEN, CONTROL_TOKEN = 1, 3


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("data", help="folder with merges.txt")
    parser.add_argument("out")
    parser.add_argument("--gguf", nargs="*", default=["Q8_0", "F16"], choices=list(FILE_TYPES))
    parser.add_argument("--safetensors", default="BF16", help='dtype, or "" for none')
    parser.add_argument("--name", default="Hearthside MoE")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--n", type=int, default=32, help="greedy tokens in golden.json")
    return parser.parse_args()


def layer_tensors(prefix, weights, shape):
    """One layer's tensors under llama.cpp's names; experts [n_experts, rows, columns]."""
    q_size, kv_size, ff = shape["heads"] * shape["hd"], shape["kv"] * shape["hd"], shape["ff"]
    qkv, gate_up = weights[prefix + "wqkv"], weights[prefix + "wgu"]
    parts = {
        "attn_norm": weights[prefix + "n1"],
        "ffn_norm": weights[prefix + "n2"],
        "attn_q": qkv[:q_size],
        "attn_k": qkv[q_size : q_size + kv_size],
        "attn_v": qkv[q_size + kv_size :],
        "attn_output": weights[prefix + "wo"],
        "attn_q_norm": weights[prefix + "qn"],
        "attn_k_norm": weights[prefix + "kn"],
        "ffn_gate_inp": weights[prefix + "wr"],
        "ffn_gate_exps": gate_up[:, :ff],
        "ffn_up_exps": gate_up[:, ff:],
        "ffn_down_exps": weights[prefix + "wd"],
    }
    return {f"{prefix}{name}.weight": values for name, values in parts.items()}


def load_checkpoint(path):
    """(training settings, {GGUF name: float32 array}, steps, tokens seen)."""
    import torch

    state = torch.load(path, map_location="cpu")
    shape = state["a"]
    weights = {name: values.float().numpy() for name, values in state["m"].items()}
    tensors = {"token_embd.weight": weights["emb"], "output_norm.weight": weights["nf"]}
    for layer in range(shape["layers"]):
        tensors.update(layer_tensors(f"blk.{layer}.", weights, shape))
    return shape, tensors, state["step"], state["seen"]


def general_metadata(name, file_type, n_steps, n_tokens):
    description = (
        f"Tiny mixture-of-experts story model; {n_steps} steps, "
        f"{n_tokens} tokens of public-domain children's books"
    )
    return [
        ("general.architecture", "str", "qwen3moe"),
        ("general.type", "str", "model"),
        ("general.name", "str", name),
        ("general.description", "str", description),
        ("general.license", "str", "cc0-1.0"),
        ("general.file_type", "u32", file_type),
        ("general.quantization_version", "u32", 2),
    ]


def shape_metadata(shape, n_vocab):
    entries = [
        ("block_count", "u32", shape["layers"]),
        ("context_length", "u32", shape["seq2"]),
        ("embedding_length", "u32", shape["d"]),
        ("feed_forward_length", "u32", shape["ff"] * shape["topk"]),
        ("attention.head_count", "u32", shape["heads"]),
        ("attention.head_count_kv", "u32", shape["kv"]),
        ("attention.key_length", "u32", shape["hd"]),
        ("attention.value_length", "u32", shape["hd"]),
        ("rope.freq_base", "f32", shape["theta"]),
        ("attention.layer_norm_rms_epsilon", "f32", 1e-6),
        ("expert_count", "u32", shape["experts"]),
        ("expert_used_count", "u32", shape["topk"]),
        ("expert_feed_forward_length", "u32", shape["ff"]),
        ("vocab_size", "u32", n_vocab),
    ]
    return [("qwen3moe." + key, kind, value) for key, kind, value in entries]


def tokenizer_metadata(tokenizer):
    types = [CONTROL_TOKEN if t in SPECIALS else NORMAL_TOKEN for t in tokenizer.tokens]
    merges = [f"{left} {right}" for left, right in tokenizer.merges]
    entries = [
        ("model", "str", "gpt2"),
        ("pre", "str", "qwen2"),
        ("tokens", "arr_str", tokenizer.tokens),
        ("token_type", "arr_i32", types),
        ("merges", "arr_str", merges),
        ("bos_token_id", "u32", tokenizer.end_of_text),
        ("eos_token_id", "u32", tokenizer.end_of_text),
        ("padding_token_id", "u32", tokenizer.end_of_text),
        ("add_bos_token", "bool", True),
    ]
    return [("tokenizer.ggml." + key, kind, value) for key, kind, value in entries]


def typed_tensors(tensors, type_name):
    """Norms and routers stay F32, as llama.cpp keeps them."""
    out = []
    for name, values in tensors.items():
        keep = values.ndim == 1 or "gate_inp" in name
        out.append((name, values, "F32" if keep else type_name))
    return out


def golden_values(path, tokenizer, prompt, n_greedy):
    model = ReferenceModel(path)
    prompt_ids = [tokenizer.end_of_text] + tokenizer.encode(prompt)
    ids = list(prompt_ids)
    prompt_logits = routing = None
    for _ in range(n_greedy):
        logits, step_routing = model(ids)
        if prompt_logits is None:
            prompt_logits, routing = logits[-1], step_routing
        ids.append(int(logits[-1].argmax()))
    top = np.argsort(-prompt_logits)[:10]
    return {
        "prompt_ids": prompt_ids,
        "top10": [[int(i), round(float(prompt_logits[i]), 5)] for i in top],
        "logit_sum": round(float(prompt_logits.sum()), 4),
        "greedy": ids[len(prompt_ids) :],
        "text": tokenizer.decode(ids[1:]),
        "routing_prompt": routing,
    }


def main():
    arguments = parse_arguments()
    os.makedirs(arguments.out, exist_ok=True)
    shape, tensors, n_steps, n_tokens = load_checkpoint(arguments.checkpoint)
    tokenizer = Tokenizer.load(arguments.data)
    golden = {}
    for type_name in arguments.gguf:
        path = os.path.join(arguments.out, f"tiny-moe-{type_name}.gguf")
        metadata = general_metadata(arguments.name, FILE_TYPES[type_name], n_steps, n_tokens)
        metadata += shape_metadata(shape, len(tokenizer.tokens)) + tokenizer_metadata(tokenizer)
        gguf_min.write(path, metadata, typed_tensors(tensors, type_name))
        golden[type_name] = golden_values(path, tokenizer, arguments.prompt, arguments.n)
        print(path, os.path.getsize(path), "bytes", repr(golden[type_name]["text"][:150]))
    if arguments.safetensors:
        folder = os.path.join(arguments.out, "hf")
        hf_folder.write(folder, shape, tensors, tokenizer, arguments.safetensors)
    with open(os.path.join(arguments.out, "golden.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out)


if __name__ == "__main__":
    main()
