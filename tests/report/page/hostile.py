"""Page content whose every text tries to become markup, and whose rollouts are known token by token."""

from __future__ import annotations

from html import escape

import numpy as np

from canopy_stats.report.page.explorer import Explorer, ShownPrompt, ShownRollouts
from canopy_stats.report.page.html import Content, Picture, Provenance, Table

HOSTILE = ("</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 2\"></textarea><!-- "
           "&amp; \u202e ' ]]> ${x} {{ y }}")
PIECES = ("the", " cat", "\n", HOSTILE, "", " é日🎉", " sat", "<b>bold</b>", "<|end|>")
END = len(PIECES) - 1
FAMILIES, TASKS, VARIANTS = (f"oak {HOSTILE}", "elm"), ("count", f"walk {HOSTILE}"), ("base", f"tuned {HOSTILE}")
PROMPTS, ROLLOUTS = 3, 8
SVG = f"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="360pt" height="180pt"
 viewBox="0 0 360 180" onload="window.hacked = 3">
<script>window.hacked = 4</script>
<foreignObject><body xmlns="http://www.w3.org/1999/xhtml" onload="window.hacked = 5">x</body></foreignObject>
<defs><path id="m" d="M 0 0 L 3 3" style="stroke: #000000; fill: url(https://example.org/x)"/>
<clipPath id="c"><rect x="0" y="0" width="360" height="180"/></clipPath></defs>
<g id="unused" clip-path="url(#c)"><use xlink:href="#m" x="10" y="10" style="fill: #0072b2"/>
<use xlink:href="https://example.org/y"/><a xlink:href="https://example.org/z"/></g>
<text x="5" y="20" style="font: x; fill: #000000}} body {{ display: none">{escape(HOSTILE)}</text>
<rect x="0" y="0" width="360" height="180" style="fill: #ffffff; opacity: 0.1"/></svg>"""


def cell(task: str, family: str, variant: str, seed: int, prompts: int = PROMPTS, rollouts: int = ROLLOUTS,
         longest: int = 12) -> ShownRollouts:
    """Random rollouts of 1 to ``longest`` tokens; half of them end with the end token."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, longest + 1, prompts * rollouts)
    total, stopped = int(length.sum()), rng.random(len(length)) < 0.5
    token = np.where(rng.random(total) < 0.5, 0, rng.integers(0, END, total))
    token[(np.cumsum(length) - 1)[stopped]] = END
    shown = tuple(ShownPrompt(f"p{i} {HOSTILE}", f"prompt {i} of {task} {HOSTILE}", rollouts, f"D 0.{i} {HOSTILE}")
                  for i in range(prompts))
    return ShownRollouts(task, family, variant, shown, PIECES, (END,), token, length, stopped, rng.gamma(1, 1, total),
                         -rng.exponential(1, total), rng.random(total) ** 4)


def explorer(**sizes: int) -> Explorer:
    names = [(task, family, variant) for family in FAMILIES for variant in VARIANTS for task in TASKS]
    return Explorer(tuple(cell(*name, seed, **sizes) for seed, name in enumerate(names)), f"A sample. {HOSTILE}")


def table(rows: int = 3) -> Table:
    return Table(f"A table. {HOSTILE}", (f"name {HOSTILE}", "task", *"abcdefghijkl"),
                 tuple((HOSTILE, f"t{i}", *(f"{i + j:.3f} (0.010)" for j in range(12))) for i in range(rows)),
                 f"A note. {HOSTILE}")


def content(shown: Explorer | None = None) -> Content:
    return Content(title=f"A title {HOSTILE}", contrast=f"A contrast. {HOSTILE}",
                   finding=f"First. {HOSTILE}\n\nSecond, with {'aVeryLongWord' * 20}.",
                   facts=(("families", "2"), ("law", HOSTILE)), warnings=(f"A warning. {HOSTILE}",),
                   tables=(table(), table(40)), pictures=(Picture(f"A figure. {HOSTILE}", SVG), Picture("Again", SVG)),
                   explorer=shown or explorer(),
                   provenance=Provenance((("seed", HOSTILE),), table(), (f"canopy-stats {HOSTILE}",)))
