#!/usr/bin/env python3
"""Runs the demo and draws what the terminal shows as an SVG.   demo/picture.py PROGRAM OUT.svg

Needs nothing but Python. The picture in the README was made with it; nothing is edited.
"""
import html
import subprocess
import sys
import textwrap

COLUMNS = 100
LINE_HEIGHT = 18
CHAR_WIDTH = 8.4


def wrap(text):
    """Lines as a terminal of COLUMNS characters breaks them, but at words."""
    for line in text.rstrip("\n").split("\n"):
        yield from textwrap.wrap(line, COLUMNS, subsequent_indent="    " if line.startswith("  ") else "") or [""]


def draw(lines):
    width = COLUMNS * CHAR_WIDTH + 40
    height = len(lines) * LINE_HEIGHT + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">',
        '<rect width="100%" height="100%" rx="8" fill="#1d2230"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">',
    ]
    for i, (colour, line) in enumerate(lines):
        out.append(f'<text x="20" y="{34 + i * LINE_HEIGHT}" fill="{colour}" '
                   f'xml:space="preserve">{html.escape(line)}</text>')
    return "\n".join(out + ["</g>", "</svg>", ""])


def main():
    program, path = sys.argv[1:]
    script = __file__.rsplit("/", 1)[0] + "/run.sh"
    result = subprocess.run([script, program], capture_output=True, text=True, check=True)
    lines = [("#8fd18f", "$ make demo")]
    lines += [("#f0f0f0", line) for line in wrap(result.stdout)]
    lines += [("#8fb4d9", line) for line in wrap(result.stderr)]
    with open(path, "w", encoding="utf-8") as out:
        out.write(draw(lines))


if __name__ == "__main__":
    main()
