"""Words per sentence of Markdown pages, as a table: median, 90th percentile, and the longest.

    python tools/sentences.py README.md docs/*/*.md

Code, tables and headings do not count. A list item ends a sentence.
"""

import re
import sys
from pathlib import Path

import numpy as np

NOT_PROSE = re.compile(r"^(```|~~~).*?^\1|^ {4}.*?$|^\|.*?$|^#.*?$|^\(.*\)=$|<!--.*?-->",
                       re.DOTALL | re.MULTILINE)
BORDER = re.compile(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ")  # between paragraphs and list items
END = re.compile(r"(?<=[.!?])[\"')*_]*\s+")


def sentences(markdown: str) -> list[str]:
    """The sentences of a page, without its code, tables and headings."""
    prose = NOT_PROSE.sub("\n\n", markdown)
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)  # links and pictures: their text
    prose = re.sub(r"`[^`]*`", "code", prose)

    found = []
    for paragraph in BORDER.split(prose):
        found += [sentence for sentence in END.split(paragraph) if len(sentence.split()) > 2]
    return found


def lengths(markdown: str) -> np.ndarray:
    """(sentences,) words of each."""
    return np.array([len(sentence.split()) for sentence in sentences(markdown)] or [0])


def main() -> None:
    print("| page | sentences | median | 90 % | longest |\n| --- | --- | --- | --- | --- |")
    for name in sys.argv[1:]:
        words = lengths(Path(name).read_text(encoding="utf-8"))
        print(f"| {name} | {len(words)} | {np.median(words):.0f} | {np.quantile(words, 0.9):.0f} | "
              f"{words.max()} |")


if __name__ == "__main__":
    main()
