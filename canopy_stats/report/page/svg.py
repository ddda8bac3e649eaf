"""A figure's SVG file as markup that may stand inside a page: ids of its own, no scripts, nothing from outside.

Style attributes become classes, so that a page needs no inline styles, and their colours become variables, so that
the same drawing can be read on a light and on a dark ground. A drawing of many colours, such as a heat map, or with
pixels in it keeps its colours and stands on white everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from canopy_stats.files import sha256
from canopy_stats.schema import UserError

PAPER, INK = (0x1B, 0x1E, 0x22), (0xE4, 0xE6, 0xE8)
"""White and black of a figure on a dark ground."""
SCALE = 1.6
"""Pixels of the page for a point of the figure: a label of 7 points is read like the page's own small print."""
WIDE = 400
"""Points of width from which a figure is wide: on a narrow screen it is scrolled, not shrunk."""
HUES = 12
"""More colours than these, greys apart, are a scale."""
_SVG = "{http://www.w3.org/2000/svg}"
_TAGS = {"svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "circle", "ellipse", "line",
         "polyline", "polygon", "image", "linearGradient", "radialGradient", "stop", "symbol", "marker", "mask",
         "pattern"}
_ATTRIBUTES = {"id", "d", "x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "cx", "cy", "r", "rx", "ry", "width", "height",
               "points", "transform", "viewBox", "offset", "clip-path", "mask", "preserveAspectRatio", "href", "style",
               "gradientUnits", "gradientTransform", "patternUnits", "clipPathUnits"}
_PROPERTIES = {"fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-linejoin",
               "stroke-linecap", "stroke-dasharray", "stroke-dashoffset", "stroke-miterlimit", "opacity", "font-size",
               "font-weight", "font-style", "text-anchor", "stop-color", "stop-opacity", "clip-path", "mask",
               "image-rendering"}
_VALUE = re.compile(r"[\w\s#.,%+-]*|url\(#[\w.-]+\)")
_COLOUR = re.compile(r"#([0-9a-fA-F]{6})\b")
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*")


@dataclass(frozen=True, slots=True)
class Drawing:
    """``markup``: one ``<svg>`` element. ``rules``: each class it uses with its declarations."""

    markup: str
    rules: Mapping[str, str]


def drawing(svg: str, prefix: str, label: str) -> Drawing:
    """The drawing in an SVG file, its ids beginning with ``prefix``, read out as ``label``."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise UserError(f"The figure {label!r} is no well-formed SVG ({error}). Draw it again.") from error
    hues = {colour.lower() for colour in _COLOUR.findall(svg) if not _grey(_rgb(colour))}
    pixels = any(True for _ in root.iter(f"{_SVG}image"))
    work = _Work(prefix, themed=len(hues) <= HUES and not pixels)
    clean = _clean(root, work)
    if clean is None or clean.tag != "svg":
        raise UserError(f"The figure {label!r} is no SVG file. Draw it again.")
    _name(clean, label, work.themed)
    _drop_unused_ids(clean)
    return Drawing(ElementTree.tostring(clean, encoding="unicode", short_empty_elements=True).strip(), work.rules)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the parts of one drawing share: their ids' prefix, whether colours are the page's, and the rules found."""

    prefix: str
    themed: bool
    rules: dict[str, str] = field(default_factory=dict)


def _name(svg: ElementTree.Element, label: str, themed: bool) -> None:
    width, height = (float(re.sub(r"[a-z]*$", "", svg.get(side, "") or "0")) for side in ("width", "height"))
    svg.attrib |= {"role": "img", "aria-label": label, "fill": "currentColor"}
    svg.set("class", ("wide" if width > WIDE else "narrow") + " plate" * (not themed))
    if width and height:
        svg.attrib |= {"width": f"{SCALE * width:.0f}", "height": f"{SCALE * height:.0f}"}


def _clean(element: ElementTree.Element, work: _Work) -> ElementTree.Element | None:
    """A copy with known elements and attributes alone; None for an element that has no place on the page."""
    tag = str(element.tag).removeprefix(_SVG)
    if tag not in _TAGS:
        return None
    copy = ElementTree.Element(tag, _attributes(element, work))
    copy.text, copy.tail = _text(tag, element.text), _text("", element.tail)
    for child in element:
        if (kept := _clean(child, work)) is not None:
            copy.append(kept)
    return copy


def _text(tag: str, text: str | None) -> str | None:
    """Words of a text element; white space between elements goes."""
    return text if text and (text.strip() or tag in ("text", "tspan")) else None


def _attributes(element: ElementTree.Element, work: _Work) -> dict[str, str]:
    found = {name.split("}")[-1]: " ".join(value.split()) for name, value in element.attrib.items()}
    kept = {name: _own(value, work.prefix) for name, value in found.items()
            if name in _ATTRIBUTES - {"style", "id", "href"} and _VALUE_OR_SHAPE.fullmatch(value)}
    if "id" in found:
        kept["id"] = work.prefix + found["id"]
    if _PICTURE.fullmatch(found.get("href", "")):
        kept["href"] = found["href"]
    elif found.get("href", "").startswith("#"):
        kept["href"] = f"#{work.prefix}{found['href'][1:]}"
    if declarations := _declarations(found.get("style", ""), work):
        name = "s" + sha256(declarations.encode())[:8]
        work.rules[name], kept["class"] = declarations, name
    return kept


_VALUE_OR_SHAPE = re.compile(r"[\w\s#.,%+()-]*")


def _own(value: str, prefix: str) -> str:
    """A value whose reference, if it is one, points to the drawing's own ids."""
    return re.sub(r"url\(#", f"url(#{prefix}", value) if "url(" in value else value


def _declarations(style: str, work: _Work) -> str:
    """The known declarations of a style attribute, themed colours as variables; font families are the page's."""
    pairs = [(name.strip(), value.strip()) for name, _, value in (part.partition(":") for part in style.split(";"))]
    known = [(name, _own(value, work.prefix)) for name, value in pairs
             if name in _PROPERTIES and _VALUE.fullmatch(value)]
    return ";".join(f"{name}:{_COLOUR.sub(_variable, value) if work.themed else value}" for name, value in known)


def _variable(match: re.Match[str]) -> str:
    return f"var(--c{match[1].lower()})"


def _drop_unused_ids(svg: ElementTree.Element) -> None:
    values = [value for element in svg.iter() for name, value in element.attrib.items() if name != "id"]
    used = {name for value in values for name in re.findall(r"#([\w.-]+)", value)}
    for element in svg.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)


# --- colours ----------------------------------------------------------------------------------------------------


def palettes(rules: Mapping[str, str]) -> tuple[str, str]:
    """The declarations of all colour variables in the rules, for a light and for a dark ground."""
    found = sorted({name for declarations in rules.values() for name in re.findall(r"var\(--c(\w{6})\)", declarations)})
    return (";".join(f"--c{c}:#{c}" for c in found), ";".join(f"--c{c}:{on_dark(c)}" for c in found))


Colour = tuple[int, int, int]


def on_dark(colour: str) -> str:
    """What a colour (six hexadecimal digits) becomes on a dark ground: greys turn round, pale tints sink into the
    ground, and other colours are lightened until they stand out from it (contrast of 4.5)."""
    rgb = _rgb(colour)
    if _grey(rgb):
        return _hex(_mix(INK, PAPER, sum(rgb) / 765))
    if min(rgb) > 200:
        return _hex(_mix(rgb, PAPER, 0.93))
    while contrast(rgb, PAPER) < 4.5:
        rgb = _mix(rgb, (255, 255, 255), 0.1)
    return _hex(rgb)


def _rgb(colour: str) -> Colour:
    return int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16)


def _grey(rgb: Colour) -> bool:
    return max(rgb) - min(rgb) < 12


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """``share`` of b in a."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _hex(rgb: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)


def contrast(a: Colour, b: Colour) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: Colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
