"""Byte-level BPE with Qwen2's pre-tokenizer: trains merges, encodes the corpus.

    python bpe.py CORPUS FOLDER VOCAB_SIZE

Writes merges.txt, vocab.json, train.npy, val.npy (uint16 token ids) and meta.json to FOLDER.
"""

import collections
import heapq
import json
import os
import re
import sys
import time

END_OF_TEXT = "<|endoftext|>"
SPECIALS = [END_OF_TEXT, "<|im_start|>", "<|im_end|>"]
SEPARATOR = "\n" + END_OF_TEXT + "\n"
HOLD_OUT_EVERY = 100

# Qwen2's pattern; with ASCII classes, which mean the same on this ASCII corpus.
PATTERN = re.compile(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\nA-Za-z0-9]?[A-Za-z]+"
    r"|[0-9]"
    r"| ?[^\sA-Za-z0-9]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def byte_alphabet():
    """{byte: printable character}, as GPT-2 defined it."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    alphabet = {byte: chr(byte) for byte in printable}
    moved = 0
    for byte in range(256):
        if byte not in alphabet:
            alphabet[byte] = chr(256 + moved)
            moved += 1
    return alphabet


BYTE_TO_CHAR = byte_alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}
# The order in which Hugging Face's tokenizers number the bytes.
BASE_TOKENS = [BYTE_TO_CHAR[b] for b in sorted(BYTE_TO_CHAR, key=lambda b: ord(BYTE_TO_CHAR[b]))]


def merge_pair(symbols, pair):
    """The symbols with every occurrence of the pair joined, left to right."""
    joined = []
    i = 0
    while i < len(symbols):
        if i + 1 < len(symbols) and symbols[i] == pair[0] and symbols[i + 1] == pair[1]:
            joined.append(pair[0] + pair[1])
            i += 2
        else:
            joined.append(symbols[i])
            i += 1
    return joined


class PairCounts:
    """Counts of neighbouring symbols over all words, kept current while pairs are merged."""

    def __init__(self, word_counts):
        self.words = []  # (symbols, count)
        self.counts = collections.Counter()
        self.words_with = collections.defaultdict(set)
        for word, count in word_counts.items():
            self.words.append(([BYTE_TO_CHAR[byte] for byte in word.encode()], count))
        for index, (symbols, count) in enumerate(self.words):
            for pair in zip(symbols, symbols[1:]):
                self.counts[pair] += count
                self.words_with[pair].add(index)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def pop_most_frequent(self):
        """(pair, count), ties to the lower pair; None when there is none left."""
        while self.heap:
            negative_count, pair = heapq.heappop(self.heap)
            current = self.counts.get(pair, 0)
            if current == -negative_count:
                return pair, current
            if current > 0:
                heapq.heappush(self.heap, (-current, pair))
        return None

    def merge(self, pair):
        touched = set()
        for index in list(self.words_with[pair]):
            symbols, count = self.words[index]
            for old in zip(symbols, symbols[1:]):
                self.counts[old] -= count
                touched.add(old)
                if self.counts[old] <= 0:
                    del self.counts[old]
            symbols = merge_pair(symbols, pair)
            self.words[index] = (symbols, count)
            for new in zip(symbols, symbols[1:]):
                self.counts[new] += count
                self.words_with[new].add(index)
                touched.add(new)
        self.words_with.pop(pair, None)
        for changed in touched:
            if self.counts.get(changed, 0) > 0:
                heapq.heappush(self.heap, (-self.counts[changed], changed))


def train(text, vocab_size):
    """The merges, most frequent pair first, until the vocabulary is full."""
    word_counts = collections.Counter()
    for document in text.split(SEPARATOR):
        word_counts.update(PATTERN.findall(document))
    pairs = PairCounts(word_counts)
    merges = []
    while len(merges) < vocab_size - 256 - len(SPECIALS):
        best = pairs.pop_most_frequent()
        if best is None or best[1] < 2:
            break
        merges.append(best[0])
        pairs.merge(best[0])
    return merges


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.rank = {pair: index for index, pair in enumerate(self.merges)}
        self.tokens = BASE_TOKENS + [left + right for left, right in self.merges] + SPECIALS
        self.n_text_tokens = len(BASE_TOKENS) + len(self.merges)
        self.id_of = {token: index for index, token in enumerate(self.tokens)}
        self.end_of_text = self.id_of[END_OF_TEXT]
        self.cache = {}

    @staticmethod
    def load(folder):
        with open(os.path.join(folder, "merges.txt"), encoding="utf-8") as lines:
            pairs = [
                line.rstrip("\n").split(" ") for line in lines if not line.startswith("#version")
            ]
        return Tokenizer(pairs)

    def encode_word(self, word):
        ids = self.cache.get(word)
        if ids is not None:
            return ids
        symbols = [BYTE_TO_CHAR[byte] for byte in word.encode()]
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:]))
            best = min(range(len(pairs)), key=lambda i: self.rank.get(pairs[i], 1 << 30))
            if pairs[best] not in self.rank:
                break
            symbols[best : best + 2] = ["".join(pairs[best])]
        ids = [self.id_of[symbol] for symbol in symbols]
        self.cache[word] = ids
        return ids

    def encode(self, text):
        return [i for word in PATTERN.findall(text) for i in self.encode_word(word)]

    def decode(self, ids):
        """The text of the ids; special tokens give nothing."""
        texts = [self.tokens[i] for i in ids if i < self.n_text_tokens]
        raw = bytes(CHAR_TO_BYTE[char] for text in texts for char in text)
        return raw.decode("utf-8", "replace")


def save_tokenizer(merges, tokenizer, folder):
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as out:
        out.write("#version: 0.2\n")
        out.writelines(f"{left} {right}\n" for left, right in merges)
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as out:
        json.dump(tokenizer.id_of, out, ensure_ascii=False)


def read_groups(corpus, n_documents):
    """The group of each document, from groups.txt beside the corpus where there is one."""
    path = os.path.join(os.path.dirname(corpus), "groups.txt")
    if not os.path.exists(path):
        return [""] * n_documents
    with open(path, encoding="utf-8") as source:
        groups = source.read().split()
    assert len(groups) == n_documents, (len(groups), n_documents)
    return groups


def encode_documents(tokenizer, documents, groups):
    """(training ids, held-out ids, meta data). Every 100th document is held out."""
    train_ids = [tokenizer.end_of_text]
    val_ids = [tokenizer.end_of_text]
    train_bytes = val_bytes = 0
    simple_from = None
    for index, document in enumerate(documents):
        if groups[index] == "series" and simple_from is None:
            simple_from = (len(train_ids), len(val_ids))
        ids = tokenizer.encode(document.strip("\n")) + [tokenizer.end_of_text]
        if index % HOLD_OUT_EVERY == HOLD_OUT_EVERY // 2:
            val_ids += ids
            val_bytes += len(document)
        else:
            train_ids += ids
            train_bytes += len(document)
    meta = {
        "train_tokens": len(train_ids),
        "val_tokens": len(val_ids),
        "train_bytes": train_bytes,
        "val_bytes": val_bytes,
        "vocab": len(tokenizer.tokens),
        "simple_from": simple_from or (0, 0),
    }
    return train_ids, val_ids, meta


def prepare(corpus, folder, vocab_size):
    # Only this step needs numpy; training and encoding don't.
    import numpy as np

    started = time.time()
    os.makedirs(folder, exist_ok=True)
    with open(corpus, encoding="utf-8") as source:
        text = source.read()
    merges = train(text, vocab_size)
    tokenizer = Tokenizer(merges)
    save_tokenizer(merges, tokenizer, folder)

    documents = [document for document in text.split(SEPARATOR) if document.strip()]
    groups = read_groups(corpus, len(documents))
    train_ids, val_ids, meta = encode_documents(tokenizer, documents, groups)
    np.save(os.path.join(folder, "train.npy"), np.array(train_ids, np.uint16))
    np.save(os.path.join(folder, "val.npy"), np.array(val_ids, np.uint16))
    with open(os.path.join(folder, "meta.json"), "w", encoding="utf-8") as out:
        json.dump(meta, out)

    sample = documents[min(7, len(documents) - 1)][:200]
    assert tokenizer.decode(tokenizer.encode(sample)) == sample
    bytes_per_token = meta["train_bytes"] / meta["train_tokens"]
    print(json.dumps(meta))
    print(f"bytes/token {bytes_per_token:.3f}, seconds {time.time() - started:.0f}")


if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], int(sys.argv[3]))
