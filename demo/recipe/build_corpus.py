"""Assembles a cleaned corpus of public-domain children's stories from Project Gutenberg texts.

    python build_corpus.py BOOKS FOLDER [--holmes]

BOOKS holds git snapshots of the books in sources.tsv, one folder a repository: GITenberg+TITLE_ID
for each Project Gutenberg book and mlschmitt+classic-books-markdown, each with its git folder under
repo/. Writes to FOLDER:

    corpus.txt   one chapter a block, a line holding only <|endoftext|> after each
    groups.txt   the group of each chapter
    sources.tsv  what went in: group, Gutenberg id, title, bytes, bytes kept, chapters
"""

import argparse
import collections
import glob
import os
import re
import subprocess
import sys
import unicodedata

SEPARATOR = "<|endoftext|>"
SKIPPED_IDS = {"18461"}  # plantation setting, dialect caricature throughout
# The simplest prose comes last: the final phase of training uses only that.
GROUPS = ["holmes", "fairy", "classic", "oz", "series"]

CLASSICS = """Aesop/Aesop's Fables.md
Anna Sewell/Black Beauty.md
Beatrix Potter/Great Big Treasury of Beatrix Potter.md
Carlo Collodi/The Adventures of Pinocchio.md
Edith Nesbit/Five Children and It.md
Edith Nesbit/The Book of Dragons.md
Edith Nesbit/The Railway Children.md
Frances Hodgson Burnett/A Little Princess.md
Frances Hodgson Burnett/The Secret Garden.md
George MacDonald/The Princess and the Goblin.md
Hugh Lofting/The Story of Doctor Dolittle.md
J. M. Barrie/Peter Pan.md
Johanna Spyri/Heidi.md
Kenneth Grahame/The Wind in the Willows.md
L. Frank Baum/A Kidnapped Santa Claus.md
L. Frank Baum/Dorothy and the Wizard in Oz.md
L. Frank Baum/Ozma of Oz.md
L. Frank Baum/The Life and Adventures of Santa Claus.md
L. Frank Baum/The Marvelous Land of Oz.md
L. Frank Baum/The Wonderful Wizard of Oz.md
Lewis Carroll/Alice's Adventures in Wonderland.md
Lewis Carroll/Through the Looking-Glass.md
Oscar Wilde/The Happy Prince & Other Tales.md
John Ruskin/The King of the Golden River.md
Rudyard Kipling/The Jungle Book.md""".split("\n")
HOLMES = re.compile(r"Adventure|Scandal|Study|Identity|Blaze|Sign|Hound")

ASCII = {
    0x2018: "'",
    0x2019: "'",
    0x201A: "'",
    0x201C: '"',
    0x201D: '"',
    0x201E: '"',
    0x2013: "-",
    0x2014: "--",
    0x2015: "--",
    0x2026: "...",
    0xA0: " ",
    0xAD: "",
    0xFEFF: "",
    0x2003: " ",
    0x2009: " ",
    0xE6: "ae",
    0xC6: "AE",
    0x153: "oe",
    0x152: "OE",
    0xB4: "'",
    0x60: "'",
    # Windows-1252 punctuation that was taken for Latin-1.
    0x96: "-",
    0x97: "--",
    0x91: "'",
    0x92: "'",
    0x93: '"',
    0x94: '"',
}

GUTENBERG_START = re.compile(
    r"(?im)^\s*\*\*\*\s*START OF (THE|THIS).*?$"
    r"|^\*?END[* ]*THE SMALL PRINT.*$"
    r"|^.*\*END\*.*$"
)
GUTENBERG_END = re.compile(
    r"(?im)^\s*(\*\*\*\s*)?END OF (THE|THIS)? ?PROJECT GUTENBERG.*$"
    r"|^\s*\*\*\*\s*END OF.*$"
    r"|^\s*End of (The )?Project Gutenberg.*$"
)
THE_END = re.compile(r"(?m)^\s*(THE END\.?|FINIS\.?|THE END OF THE STORY)\s*$")
EDITORIAL = re.compile(
    r"\[(Illustration|Footnote|Transcriber|Sidenote|Note)[^\]]*\]", flags=re.I | re.S
)
# Paragraphs about the book rather than from it.
PUBLISHERS_TALK = re.compile(
    r"(?i)gutenberg|e-?text|transcriber|proofread|copyright|12mo|price per vol|publishers?\b"
    r"|cloth bound|illustrated by|all rights reserved|\bcontents\b|http|www\.|\bpp\.|frontispiece"
    r"|grosset|footnote|isbn|per volume|edition\b|uniform style|beautifully illustrated"
)
# Period slurs and caricature vocabulary: a chapter holding any of these is left out whole.
OFFENSIVE = re.compile(
    r"(?i)\b(nigger|nigga|darky|darkies|darkey|pickaninn|piccanin"
    r"|coloured (man|woman|boy|girl|folk)"
    r"|colored (man|men|woman|women|boy|girl|folk|people|cook|maid|porter|waiter)"
    r"|negro|mammy|squaw|redskin|chinaman|sambo|golliwog|blackamoor|half-breed|jew\b"
    r"|gypsy|gypsies|gipsy)"
)
# An apostrophe before one of these opens a shortened word, not speech.
NOT_SHORTENED = (
    r"(?!tis\b|twas\b|em\b|twill\b|twere\b|till?\b|twixt|gainst|neath|prentice|ll\b|cause\b"
    r"|round\b|way\b|bout\b|fore\b|most\b|spect\b|deed\b|nough\b)"
)
SPEECH_OPENS = re.compile(r"(?:(?<=^)|(?<=[ \-(]))'" + NOT_SHORTENED + r"(?=[A-Za-z])")
SPEECH_CLOSES = re.compile(r"(?<=[,.!?;:\-])'(?![A-Za-z])")

MIN_CHAPTER_LENGTH = 600
MIN_PARAGRAPH_LENGTH = 12
MIN_PROSE_LINE_LENGTH = 38  # shorter lines on average are verse or tables


def git(git_folder, *arguments):
    command = ["git", "--git-dir=" + git_folder, *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def decode(raw):
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def ascii_fold(text):
    text = unicodedata.normalize("NFKD", text.translate(ASCII))
    return "".join(char for char in text if ord(char) < 128)


def strip_gutenberg(text):
    """The text between Project Gutenberg's header and footer."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    starts = [match.end() for match in GUTENBERG_START.finditer(text[:60000])]
    if starts:
        text = text[max(starts) :]
    end = GUTENBERG_END.search(text)
    return text[: end.start()] if end else text


def cut_after_the_end(text):
    """Drops what follows the last THE END, where that stands late in the book."""
    ends = [match.start() for match in THE_END.finditer(text)]
    if ends and ends[-1] > 0.6 * len(text):
        return text[: ends[-1]]
    return text


def paragraphs(text):
    """The non-empty lines of each paragraph."""
    text = EDITORIAL.sub("\n\n", text)
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.rstrip() for line in paragraph.split("\n") if line.strip()]
        if lines:
            yield lines


def join_lines(lines):
    text = " ".join(line.strip() for line in lines)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"[_*#=~^|<>{}\\]", "", text).strip()
    text = re.sub(r"\s*-{2,}\s*", "--", text)
    return re.sub(r" ([,.;!?])", r"\1", text)


def count_letters(text):
    return sum(char.isalpha() for char in text)


def count_capitals(text):
    return sum(char.isupper() for char in text)


def is_heading(text):
    if len(text) >= 90:
        return False
    letters = count_letters(text)
    return bool(
        letters == 0
        or count_capitals(text) > 0.6 * letters
        or re.match(r"(?i)^(chapter|story|part|book)\b", text)
        or re.match(r"^[IVXLC]+\.?( |$)", text)
    )


def is_prose(text, n_lines):
    letters = count_letters(text)
    if "[" in text or "]" in text or len(text) < MIN_PARAGRAPH_LENGTH:
        return False
    if letters < 0.6 * len(text) or count_capitals(text) > 0.25 * letters:
        return False
    if PUBLISHERS_TALK.search(text):
        return False
    if n_lines > 2 and len(text) / n_lines < MIN_PROSE_LINE_LENGTH:
        return False
    if not re.search(r'[.!?"\':;,)\-]$', text):
        return False  # titles, list items
    return not (re.search(r"\d{3,}", text) and len(text) < 200)


def lower_capitals(match):
    if len(match.group(0)) < 3:
        return match.group(0)
    return match.group(1) + match.group(2).lower()


def lower_opening_capitals(text):
    """ONCE UPON a time -> Once Upon a time, where a paragraph begins so."""
    if re.match(r'^"?[A-Z]{3,} ', text) or re.match(r'^"?[A-Z]+ [A-Z]{2,}', text):
        return re.sub(r"(?<![A-Za-z])([A-Z])([A-Z]+)(?![A-Za-z])", lower_capitals, text)
    return text


def chapters_of(text):
    """Chapters, each a list of prose paragraphs; front matter and scraps are left out."""
    text = cut_after_the_end(ascii_fold(strip_gutenberg(text)))
    chapters = []
    current = []
    for lines in paragraphs(text):
        paragraph = join_lines(lines)
        if is_heading(paragraph):
            page_number = re.match(r"^[\d .*-]*$", paragraph)
            if current and not page_number:
                chapters.append(current)
                current = []
        elif is_prose(paragraph, len(lines)):
            current.append(lower_opening_capitals(paragraph))
    if current:
        chapters.append(current)
    return [c for c in chapters if sum(map(len, c)) >= MIN_CHAPTER_LENGTH]


def double_quotes(paragraph):
    """'Single-quoted dialogue' -> "double-quoted", for books set in the British way."""
    if '"' in paragraph or "'" not in paragraph:
        return paragraph
    opened = SPEECH_OPENS.sub('"', paragraph)
    if opened == paragraph:
        return paragraph
    return SPEECH_CLOSES.sub('"', opened)


def markdown_headings_to_capitals(text):
    return re.sub(r"(?m)^#+\s*(.*?)\s*#*$", lambda m: "\n" + m.group(1).upper() + "\n", text)


class Corpus:
    def __init__(self):
        self.chapters = []  # (group, text)
        self.sources = []  # the rows of sources.tsv
        self.seen = set()
        self.n_dropped = 0

    def is_repeated(self, chapter):
        """Whether another edition's chapter began the same; remembers this one's beginning."""
        first = chapter[0][:80]
        second = chapter[min(1, len(chapter) - 1)][:80]
        if second in self.seen and len(chapter) > 1 and first in self.seen:
            return True
        self.seen.update((first, second))
        return False

    def add_book(self, title, gutenberg_id, group, text):
        chapters = chapters_of(text)
        n_kept = 0
        for chapter in chapters:
            if self.is_repeated(chapter):
                continue
            body = "\n".join(double_quotes(paragraph) for paragraph in chapter)
            if OFFENSIVE.search(body):
                self.n_dropped += 1
                continue
            self.chapters.append((group, body))
            n_kept += len(body)
        self.sources.append((group, gutenberg_id, title, len(text), n_kept, len(chapters)))

    def write(self, folder):
        self.chapters.sort(key=lambda chapter: GROUPS.index(chapter[0]))
        with open(os.path.join(folder, "groups.txt"), "w", encoding="utf-8") as out:
            out.write("\n".join(group for group, _ in self.chapters) + "\n")
        with open(os.path.join(folder, "corpus.txt"), "w", encoding="utf-8") as out:
            for _, body in self.chapters:
                out.write(body + "\n" + SEPARATOR + "\n")
        with open(os.path.join(folder, "sources.tsv"), "w", encoding="utf-8") as out:
            out.write("group\tgutenberg_id\ttitle\traw_bytes\tkept_bytes\tchapters\n")
            for row in self.sources:
                out.write("\t".join(map(str, row)) + "\n")

    def print_summary(self):
        sizes = collections.Counter()
        for group, body in self.chapters:
            sizes[group] += len(body)
        print("chapters dropped for period slurs:", self.n_dropped)
        print("chapters:", len(self.chapters), "bytes:", sum(sizes.values()), dict(sizes))


def git_folder(snapshot):
    folder = os.path.join(snapshot, "repo")
    nested = os.path.join(folder, ".git")
    return nested if os.path.isdir(nested) else folder


def group_of(title):
    if "Sherlock" in title:
        return "holmes"
    if re.search(r"Fairy|Grimm", title):
        return "fairy"
    if re.search(r"Oz\b|-Oz", title):
        return "oz"
    return "series"


def text_file(files, gutenberg_id):
    """The book's text among the files of its repository, best encoding first; or None."""
    for suffix in ("-0.txt", "-8.txt", ".txt"):
        if gutenberg_id + suffix in files:
            return gutenberg_id + suffix
    others = [name for name in files if re.match(r".*\.txt$", name) and name != "robots.txt"]
    return others[0] if others else None


def add_gutenberg_books(corpus, books):
    for snapshot in sorted(glob.glob(os.path.join(books, "GITenberg+*"))):
        name = os.path.basename(snapshot)[len("GITenberg+") :]
        title, gutenberg_id = name.rsplit("_", 1)
        if gutenberg_id in SKIPPED_IDS:
            continue
        folder = git_folder(snapshot)
        files = git(folder, "ls-tree", "--name-only", "HEAD").decode().split("\n")
        picked = text_file(files, gutenberg_id)
        if picked is None:
            print("no text in", name, files[:12], file=sys.stderr)
            continue
        text = decode(git(folder, "show", "HEAD:" + picked))
        corpus.add_book(title.replace("-", " "), gutenberg_id, group_of(title), text)


def add_markdown_book(corpus, folder, path, group):
    author, file_name = path.split("/")[:2]
    text = decode(git(folder, "show", "HEAD:" + path))
    title = f"{file_name[:-3]} ({author})"
    corpus.add_book(title, "md", group, markdown_headings_to_capitals(text))


def add_holmes(corpus, folder):
    """An optional second domain."""
    names = git(folder, "ls-tree", "-r", "-z", "--name-only", "HEAD").decode().split("\0")
    for name in names:
        if name.startswith("Arthur Conan Doyle/") and HOLMES.search(name):
            add_markdown_book(corpus, folder, name, "holmes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("books")
    parser.add_argument("folder")
    parser.add_argument("--holmes", action="store_true", help="add Arthur Conan Doyle's stories")
    arguments = parser.parse_args()

    corpus = Corpus()
    add_gutenberg_books(corpus, arguments.books)
    markdown = os.path.join(arguments.books, "mlschmitt+classic-books-markdown", "repo")
    for path in CLASSICS:
        add_markdown_book(corpus, markdown, path, "classic")
    if arguments.holmes:
        add_holmes(corpus, markdown)
    os.makedirs(arguments.folder, exist_ok=True)
    corpus.write(arguments.folder)
    corpus.print_summary()


if __name__ == "__main__":
    main()
