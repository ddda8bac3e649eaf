"""A finished study as one page of HTML that holds everything it needs and asks nothing of a network.

:func:`page` turns a :class:`Content` into text. All values are data: the template escapes them, the explorer's data
are JSON in which no ``<`` is left, figures are rebuilt from known elements, and the page's own content security policy
runs no script but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from typing import Any

from canopy_stats.report.page import explorer, svg
from canopy_stats.report.page.explorer import Explorer
from canopy_stats.report.page.headline import Headline
from canopy_stats.report.page.words import WORDS, meaning


@dataclass(frozen=True, slots=True)
class Table:
    """A printed table: every cell is text. ``note`` stands below it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers, and are set to the right."""
        return tuple(bool(self.rows) and all(_number(row[i]) for row in self.rows) for i in range(len(self.head)))

    @property
    def wordy(self) -> tuple[bool, ...]:
        """Which columns hold long texts, and are broken into lines."""
        return tuple(any(len(row[i]) > 36 for row in self.rows) for i in range(len(self.head)))

    def shown(self, leading: int = 2) -> list[list[tuple[str, bool]]]:
        """Rows of (text, whether it repeats the row above): in the leading columns printed tables leave that out."""
        columns, numeric = min(leading, max(len(self.head) - 1, 0)), self.numeric
        above: tuple[str, ...] = ()
        rows = []
        for row in self.rows:
            same = [i < columns and row[: i + 1] == above[: i + 1] for i in range(len(row))]
            texts = [_minus(text) if number else text for text, number in zip(row, numeric, strict=True)]
            rows.append(list(zip(texts, same, strict=True)))
            above = row
        return rows


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: the text of an SVG file, and its caption."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the study was made: named settings, a table of its runs, and the commands that make it again."""

    settings: tuple[tuple[str, str], ...] = ()
    runs: Table | None = None
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """All that a page says.

    ``headlines`` and ``opening``, a figure, stand before ``finding``, which is one paragraph, or several with an empty
    line between them; its first sentences are shown, the rest unfolds.
    """

    title: str
    contrast: str = ""
    finding: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    explorer: Explorer | None = None
    provenance: Provenance = Provenance()
    headlines: tuple[Headline, ...] = ()
    opening: Picture | None = None


def page(content: Content) -> str:
    """The page. The same content gives the same text."""
    drawings = [svg.drawing(p.svg, f"p{i}-", p.caption) for i, p in enumerate(content.pictures, 1)]
    first = svg.drawing(content.opening.svg, "p0-", content.opening.caption) if content.opening else None
    every = [*drawings, *([first] if first else [])]
    style, script = _style({k: v for d in every for k, v in d.rules.items()}), _asset("page.js")
    text: str = _template().render(
        content=content, style=_markup(style), script=_markup(script), policy=_policy(script, style),
        paragraphs=[_opened(p) for p in content.finding.split("\n\n") if p.strip()],
        opening=_markup(first.markup) if first else None, words=sorted(WORDS.items(), key=lambda w: w[0].lower()),
        meaning=meaning,
        figures=[(p, _markup(d.markup)) for p, d in zip(content.pictures, drawings, strict=True)],
        **_embedded(content.explorer))
    return text


def _opened(paragraph: str, least: int = 420) -> tuple[str, str]:
    """A paragraph's first sentences, and what follows them; all of it where that would be a line or two."""
    if len(paragraph) < 2 * least:
        return paragraph, ""
    at = paragraph.find(". ", least)
    return (paragraph[: at + 1], paragraph[at + 2:]) if at > 0 else (paragraph, "")


def _embedded(shown: Explorer | None) -> dict[str, Any]:
    if shown is None:
        return {"index": None, "blocks": []}
    return {"index": _markup(explorer.safe_json(explorer.index(shown))),
            "blocks": [explorer.packed(cell) for cell in shown.cells]}


def _policy(script: str, style: str) -> str:
    """The content security policy: this script, this style sheet, pictures inside the page, and nothing else."""
    return (f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _style(rules: Mapping[str, str]) -> str:
    """The page's style sheet with the figures' classes and colours."""
    light, dark = svg.palettes(rules)
    classes = "\n".join(f".{name}{{{declarations}}}" for name, declarations in sorted(rules.items()))
    return (f"{_asset('page.css')}\n:root{{{light}}}\n@media screen and (prefers-color-scheme:dark)"
            f"{{:root{{{dark}}}}}\n{classes}\n")


@cache
def _asset(name: str) -> str:
    return resources.files("canopy_stats.report.page").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(_asset("page.html"))


def _markup(text: str) -> Any:
    """Text of the package's own making, or made safe above, that is not to be escaped."""
    import markupsafe

    return markupsafe.Markup(text)


# --- tables that were printed as HTML ---------------------------------------------------------------------------


def read_table(caption: str, markup: str) -> Table:
    """The table that ``report.printed.html`` printed, as text in cells, with the words around it as its note."""
    reader = _TableReader()
    reader.feed(markup)
    reader.close()
    head, *rows = reader.rows or [[]]
    width = max(map(len, (head, *rows)))
    padded = [tuple(row + [""] * (width - len(row))) for row in (head, *rows)]
    return Table(caption, padded[0], tuple(padded[1:]), " ".join(" ".join(reader.around).split()))


class _TableReader(HTMLParser):
    """Collects the rows of a table with the text of their cells, and the text outside of cells."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.around: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th") and bool(self.rows)
        if self._inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data
        else:
            self.around.append(data)


def _minus(text: str) -> str:
    """A number with real minus signs."""
    return text.replace("-", "−")


def _number(text: str) -> bool:
    """Whether a cell holds a number as tables print it: ``-0.05``, ``0.63 (0.02)``, ``[1.2, 3.4]``, ``< 0.001``."""
    return text in ("", "–") or not text.strip("0123456789.,+-−–()[]<>≈±%*einf ") and any(map(str.isdigit, text))
