"""How long the sentences of the documentation are: words of prose, without tables, code, headings
and pictures.

    python -m tests.docs.prose               one line a page: sentences, words, commas, longest
    python -m tests.docs.prose --over 25     the sentences above 25 words as well

A word is what stands between spaces and holds a letter or a digit; inline code is one word. An item
of a list, and a line that ends in a colon before a block of code, end their sentence.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ITEM = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")
SKIPPED = ("|", "#", "<", "![", "---")
END = re.compile(r"(?<=[.!?])[)\"”*_]*\s+")
NO_END = ("et al.", "e.g.", "i.e.", "cf.", "vs.", "Fig.", "Eq.", "...")


@dataclass(frozen=True)
class Page:
    """The sentences of one page, in order."""

    name: str
    sentences: tuple[str, ...]

    @property
    def words(self) -> float:
        """Mean number of words a sentence."""
        return sum(map(count, self.sentences)) / max(1, len(self.sentences))

    @property
    def commas(self) -> float:
        """Mean number of commas a sentence."""
        return sum(text.count(",") for text in self.sentences) / max(1, len(self.sentences))

    def over(self, words: int) -> list[str]:
        """The sentences of more than `words` words."""
        return [text for text in self.sentences if count(text) > words]


def count(sentence: str) -> int:
    """The words of a sentence."""
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


def blocks(markdown: str) -> list[str]:
    """Paragraphs and items of lists, each on one line; what is no prose is left out."""
    found, open_block, fenced = [], "", False
    for line in [*markdown.splitlines(), ""]:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        code = fenced or line.lstrip().startswith("```") or (line[:4] == "    " and not open_block)
        ends = code or not line.strip() or line.lstrip().startswith(SKIPPED)
        item = ITEM.match(line)
        if (ends or item) and open_block:
            found.append(open_block)
            open_block = ""
        if not ends:
            open_block = f"{open_block} {line[len(item[0]) if item else 0 :].strip()}".strip()
    return found


def sentences(markdown: str) -> list[str]:
    """Every sentence of a page."""
    found = []
    for block in blocks(markdown):
        text = re.sub(r"`[^`]*`", lambda code: re.sub(r"\s|\.", "_", code[0]), block)
        text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
        for short in NO_END:
            text = text.replace(short, short.replace(".", "·"))
        found += [part for part in END.split(text) if count(part)]
    return found


def pages() -> list[Page]:
    """README and everything under docs/ and studies/ that a person wrote: reports write their own
    tables."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    files += sorted((ROOT / "studies").rglob("*.md"))
    return [
        Page(
            file.relative_to(ROOT).as_posix(),
            tuple(sentences(file.read_text(encoding="utf-8"))),
        )
        for file in files
        if "report" not in file.parts
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--over", type=int, metavar="WORDS", help="list the sentences above this")
    parser.add_argument("pages", nargs="*", help="parts of names; every page if left out")
    given = parser.parse_args()
    chosen = [p for p in pages() if not given.pages or any(part in p.name for part in given.pages)]
    print(f"{'page':36} sentences  words  commas  longest")
    for page in [*chosen, Page("all", tuple(text for p in chosen for text in p.sentences))]:
        longest = max(map(count, page.sentences), default=0)
        print(
            f"{page.name:36} {len(page.sentences):9} {page.words:6.1f} {page.commas:7.2f}"
            f" {longest:8}"
        )
    for page in chosen if given.over else ():
        for text in page.over(given.over):
            print(f"{page.name}: {count(text)} words: {text}")


if __name__ == "__main__":
    main()
