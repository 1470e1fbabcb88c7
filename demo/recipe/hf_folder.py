"""Writes the model as a Hugging Face Qwen3MoeForCausalLM folder."""

import json
import os
import struct

import gguf_min
from bpe import SPECIALS

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate_inp": "mlp.gate",
}
TORCH_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def hf_tensors(shape, tensors):
    """The tensors under transformers' names, one for each expert and projection."""
    out = {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        "model.norm.weight": tensors["output_norm.weight"],
    }
    for layer in range(shape["layers"]):
        prefix = f"model.layers.{layer}"
        for gguf_name, hf_name in LAYER_NAMES.items():
            out[f"{prefix}.{hf_name}.weight"] = tensors[f"blk.{layer}.{gguf_name}.weight"]
        for expert in range(shape["experts"]):
            for part in ("gate", "up", "down"):
                stacked = tensors[f"blk.{layer}.ffn_{part}_exps.weight"]
                name = f"{prefix}.mlp.experts.{expert}.{part}_proj.weight"
                out[name] = stacked[expert]
    return out


def write_safetensors(path, tensors, dtype):
    header = {"__metadata__": {"format": "pt"}}
    payloads = []
    offset = 0
    for name in sorted(tensors):
        _, payload = gguf_min.encode(tensors[name], dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(payload)],
        }
        offset += len(payload)
        payloads.append(payload)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(payloads))


def model_config(shape, tokenizer, dtype):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": len(tokenizer.tokens),
        "hidden_size": shape["d"],
        "intermediate_size": shape["ff"] * shape["topk"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv"],
        "head_dim": shape["hd"],
        "hidden_act": "silu",
        "max_position_embeddings": shape["seq2"],
        "rms_norm_eps": 1e-6,
        "rope_theta": shape["theta"],
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": shape["ff"],
        "num_experts": shape["experts"],
        "num_experts_per_tok": shape["topk"],
        "norm_topk_prob": True,
        "output_router_logits": False,
        "router_aux_loss_coef": shape["aux"],
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "initializer_range": 0.02,
        "torch_dtype": TORCH_DTYPES[dtype],
        "use_cache": True,
    }


def generation_config(tokenizer):
    return {
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
        "repetition_penalty": 1.05,
    }


def added_token(tokenizer, content):
    return {
        "id": tokenizer.id_of[content],
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def byte_level():
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }


def bpe_model(tokenizer):
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {t: i for t, i in tokenizer.id_of.items() if t not in SPECIALS},
        "merges": [f"{left} {right}" for left, right in tokenizer.merges],
    }


def tokenizer_json(tokenizer):
    split = {
        "type": "Split",
        "pattern": {"Regex": QWEN2_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(tokenizer, content) for content in SPECIALS],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level()]},
        "post_processor": byte_level(),
        "decoder": byte_level(),
        "model": bpe_model(tokenizer),
    }


def tokenizer_config(shape):
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[0],
        "pad_token": SPECIALS[0],
        "model_max_length": shape["seq2"],
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
    }


def write(folder, shape, tensors, tokenizer, dtype):
    """shape: the training settings; tensors: float32 under GGUF names; dtype: BF16, F16 or F32."""
    os.makedirs(folder, exist_ok=True)
    weights = os.path.join(folder, "model.safetensors")
    write_safetensors(weights, hf_tensors(shape, tensors), dtype)
    documents = {
        "config.json": (model_config(shape, tokenizer, dtype), 1),
        "generation_config.json": (generation_config(tokenizer), 1),
        "tokenizer.json": (tokenizer_json(tokenizer), None),
        "tokenizer_config.json": (tokenizer_config(shape), 1),
    }
    for name, (document, indent) in documents.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            json.dump(document, out, indent=indent, ensure_ascii=False)
