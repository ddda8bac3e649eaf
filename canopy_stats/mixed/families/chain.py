"""The chain rule: densities in a natural predictor as densities in eta, and functions of a density."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from canopy_stats.mixed.families.family import Array, Density, Derivatives
from canopy_stats.mixed.families.links import Link


def through(link: Link, density: Density) -> Density:
    """A density in s as one in eta, s = s(eta)."""
    natural = link.natural
    if natural is None:
        return density

    def linked(eta: Array, order: int) -> Derivatives:
        s, *slopes = natural(eta)
        return _chained(density(s, order), *slopes)

    return linked


def _chained(at: Derivatives, s1: Array, s2: Array, s3: Array) -> Derivatives:
    first = replace(at, d1=at.d1 * s1, d2=at.d2 * s1**2 + at.d1 * s2, fisher=at.fisher * s1**2)
    if at.d3 is None:
        return first
    third = at.d3 * s1**3 + 3 * at.d2 * s1 * s2 + at.d1 * s3
    if at.dk is None or at.ddk is None:
        return replace(first, d3=third)
    return replace(first, d3=third, dk=at.dk * s1, ddk=at.ddk * s1**2 + at.dk * s2)


def compose(outer: tuple[Array, Array, Array, Array], x: Derivatives) -> Derivatives:
    """phi(x) from phi and its three derivatives (n,) at x = x(eta, kappa); ``fisher`` stays x's."""
    value, p1, p2, p3 = outer
    first = Derivatives(value, p1 * x.d1, p2 * x.d1**2 + p1 * x.d2, x.fisher)
    if x.d3 is None:
        return first
    first = replace(first, d3=p3 * x.d1**3 + 3 * p2 * x.d1 * x.d2 + p1 * x.d3)
    if x.k1 is None or x.kk is None or x.dk is None or x.ddk is None:
        return first
    return replace(
        first, k1=p1 * x.k1, kk=p2 * x.k1**2 + p1 * x.kk, dk=p2 * x.d1 * x.k1 + p1 * x.dk,
        ddk=p3 * x.d1**2 * x.k1 + 2 * p2 * x.d1 * x.dk + p2 * x.d2 * x.k1 + p1 * x.ddk,
    )


def minus(a: Derivatives, b: Derivatives) -> Derivatives:
    """a - b, field by field; ``fisher`` stays a's."""
    names = ("value", "d1", "d2", "d3", "k1", "kk", "dk", "ddk")
    out: dict[str, Any] = {}
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        out[name] = None if x is None or y is None else x - y
    return replace(a, **out)
