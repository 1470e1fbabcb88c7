"""Puts together texts of eight domains from what a Debian system and this repository hold.

    python build_domains.py FOLDER STORIES... [--bytes 700000]

STORIES are files of prose, for example ../heldout.txt and what the demo model writes. Writes
stories.txt, cpp.txt, python.txt, manuals.txt, licences.txt, changelogs.txt, perl.txt and json.txt:
ASCII, shuffled pieces of at most 16 KB that end with a line, so that any part of a file is a sample
of its domain. Needs Python only.
"""

import argparse
import glob
import gzip
import os
import random
import unicodedata

PIECE_BYTES = 16384
SEED = 1
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")

# What each domain is made of; of a compressed file the text inside.
PATTERNS = {
    "cpp": [f"{ROOT}/{folder}/**/*.{end}" for folder in
            ("cache", "kernels", "runtime", "scheduler", "tests") for end in ("cc", "h", "cu")],
    "python": ["/usr/lib/python3*/**/*.py"],
    "manuals": [f"/usr/share/man/man{section}/*.gz" for section in (1, 5, 7, 8)],
    "licences": ["/usr/share/common-licenses/*", "/usr/share/doc/*/copyright"],
    "changelogs": ["/usr/share/doc/*/changelog.Debian.gz"],
    "perl": ["/usr/share/perl/**/*.pm", "/usr/share/perl5/**/*.pm"],
    "json": ["/usr/share/iso-codes/json/*.json"],
}


def read_ascii(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as source:
        text = source.read().decode("utf-8", "replace")
    text = unicodedata.normalize("NFKD", text)
    return "".join(char for char in text if char in "\n\t" or " " <= char <= "~")


def pieces_of(text):
    """Runs of whole lines, PIECE_BYTES at most unless a line is longer."""
    pieces = []
    current = ""
    for line in text.splitlines(keepends=True):
        if current and len(current) + len(line) > PIECE_BYTES:
            pieces.append(current)
            current = ""
        current += line
    return pieces + [current] if current.strip() else pieces


def domain_text(paths, n_bytes, rng):
    """Pieces of different beginnings, so that a text that many packages ship counts once."""
    paths = sorted({os.path.realpath(path) for path in paths if os.path.isfile(path)})
    rng.shuffle(paths)
    by_beginning = {}
    size = 0
    for path in paths:
        for piece in pieces_of(read_ascii(path)):
            beginning = piece[:400].split("\n", 2)[-1]
            if beginning not in by_beginning:
                by_beginning[beginning] = piece
                size += len(piece)
        if size > 4 * n_bytes:
            break
    pieces = list(by_beginning.values())
    rng.shuffle(pieces)
    text = ""
    for piece in pieces:
        if len(text) >= n_bytes:
            break
        text += piece if piece.endswith("\n") else piece + "\n"
    return text[:n_bytes]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("stories", nargs="+")
    parser.add_argument("--bytes", type=int, default=700000, help="of each domain at most")
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    domains = {"stories": arguments.stories}
    for name, patterns in PATTERNS.items():
        domains[name] = [path for p in patterns for path in glob.glob(p, recursive=True)]
    for name, paths in domains.items():
        text = domain_text(paths, arguments.bytes, random.Random(SEED))
        with open(os.path.join(arguments.folder, name + ".txt"), "w", encoding="ascii") as out:
            out.write(text)
        print(f"{name}: {len(text)} bytes of {len(paths)} files")


if __name__ == "__main__":
    main()
