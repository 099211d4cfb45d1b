"""The README and the pages of docs/, parsed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PATHS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MARKDOWN = MarkdownIt("commonmark").enable("table")


class Page:
    """A page taken apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8")
        tokens = MARKDOWN.parse(text)
        inline = [token for token in tokens if token.type == "inline"]
        spans = [child for token in inline for child in token.children or ()]
        self.blocks = [token for token in tokens if token.type in ("fence", "code_block")]
        self.code = [" ".join(span.content.split()) for span in spans if span.type == "code_inline"]
        self.links = [str(span.attrs.get("href") or span.attrs.get("src")) for span in spans if is_link(span)]
        self.links += re.findall(r'(?:src|srcset)="([^"]+)"', text)
        self.headings = [title.content for opening, title in pairwise(tokens) if opening.type == "heading_open"]
        self.outputs = {
            line_of(block): following.content
            for block, following in pairwise(tokens)
            if block.info == "python" and following.info == "text"
        }
        """Output directly below a Python block, by the line where that block begins."""

    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub and the site make them."""
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in self.headings}


def is_link(span: Token) -> bool:
    return span.type in ("link_open", "image")


def line_of(block: Token) -> int:
    """The line of a page where a block begins, from 1."""
    assert block.map is not None
    return block.map[0] + 1
