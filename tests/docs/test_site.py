"""The documentation's pages: links that lead somewhere, reference pages that hold everything, a README of a page."""

import ast
import re
import sys
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import BaseModel, Field, create_model

import canopy_stats as cs
from canopy_stats import schema
from canopy_stats.cli import parser
from canopy_stats.study.values import Record

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
         *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts and "reference" not in p.parts)]


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(DOCS))
    try:
        import reference_pages
    finally:
        sys.path.remove(str(DOCS))
    return reference_pages


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link of a page; reference pages are written at build time."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http") and "reference/" not in target:
            assert (page.parent / target).exists(), target


def test_the_toctrees_name_every_page():
    """Each page is named once by the toctree of another; reference pages are written at build time."""
    named = [(page.parent / line.strip()).resolve().relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
             for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL)
             for line in tree.splitlines() if line.strip() and not line.startswith(":")]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")
             if not {"_build"} & set(page.parts)}
    assert len(named) == len(set(named))
    assert {name for name in pages if not name.startswith("reference/")} - {"index"} == {
        name for name in named if not name.startswith("reference/")}


def test_every_study_key_has_a_meaning(pages):
    for title, record in pages.RECORDS.items():
        assert issubclass(record, BaseModel)
        for name, field in record.model_fields.items():
            assert field.description or pages.policy_meanings().get(name), f"{title}: {name}"
    assert "| `n_rollouts`" not in pages.study_file() and "| `rollouts` | whole number | `100` |" in pages.study_file()


@pytest.mark.slow
def test_every_study_key_has_an_example_that_the_record_takes(pages):
    """Each key by itself: some of a record exclude each other."""
    for title, record in pages.RECORDS.items():
        given = [yaml.safe_load(line) for line in pages.examples()[title]]
        assert [list(one) for one in given] == [[name] for name in record.model_fields], title
        kinds = {name: (Annotated[field.annotation, *field.metadata, Field()], ...)
                 for name, field in record.model_fields.items()}
        create_model("Keys", __base__=Record, **kinds)(**{k: v for one in given for k, v in one.items()})


def test_every_command_and_column_is_on_its_page(pages):
    commands, columns = pages.commands(), pages.columns()
    assert all(f"\n## {name}\n" in commands for name in parser.COMMANDS)
    every = (*schema.PANEL_COLUMNS, *schema.ROLLOUT_COLUMNS, *schema.STEP_COLUMNS, *schema.PROMPT_COLUMNS)
    assert all(f"| `{c.name}` |" in columns for c in every)


def test_every_public_name_is_on_the_page_of_names(pages):
    listed = set(re.findall(r"^   canopy_stats\.(\w+)$", pages.api(), re.MULTILINE))
    public = {name for name in cs.__all__ if not isinstance(getattr(cs, name), type(re)) and not name.startswith("_")}
    assert listed >= public


def test_the_readme_is_a_page_and_its_python_is_ours():
    """At most 900 words; its blocks are Python, and every name of the package that they use exists."""
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cs":
                assert hasattr(cs, node.attr), node.attr
