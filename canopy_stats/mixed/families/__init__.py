"""Response distributions by name. A new family is a module with its density and one line in ``FAMILIES``."""

from __future__ import annotations

from canopy_stats.mixed.families.continuous import gamma_family, gaussian_family, lognormal_family
from canopy_stats.mixed.families.counts import nbinom1_family, nbinom2_family, poisson_family
from canopy_stats.mixed.families.family import Density, Derivatives, Family, Maker, Others, others
from canopy_stats.mixed.families.ordinal import cumulative_family
from canopy_stats.mixed.families.shares import beta_family, ordbeta_family
from canopy_stats.mixed.families.trials import betabinomial_family, binomial_family
from canopy_stats.mixed.families.zeros import hurdle_nbinom2_family, hurdle_poisson_family, zero_inflated
from canopy_stats.schema import UserError

__all__ = ["FAMILIES", "Density", "Derivatives", "Family", "Others", "get_family", "others"]

FAMILIES: dict[str, Maker] = {
    "beta": beta_family,
    "ordbeta": ordbeta_family,
    "gaussian": gaussian_family,
    "binomial": binomial_family,
    "betabinomial": betabinomial_family,
    "poisson": poisson_family,
    "nbinom1": nbinom1_family,
    "nbinom2": nbinom2_family,
    "gamma": gamma_family,
    "lognormal": lognormal_family,
    "cumulative": cumulative_family,
    "hurdle_poisson": hurdle_poisson_family,
    "hurdle_nbinom2": hurdle_nbinom2_family,
}


def get_family(name: str, link: str | None = None, *, zero_inflation: bool = False) -> Family:
    """Family by name, with its usual link for None; UserError lists the known ones."""
    if name not in FAMILIES:
        raise UserError(f"family is {name!r}; choose one of {', '.join(FAMILIES)}.")
    family = FAMILIES[name](link, (), ())
    if not zero_inflation or family.zero:
        return family
    if not family.counts:
        able = ", ".join(other for other, make in FAMILIES.items() if make(None, (), ()).counts)
        raise UserError(f"family={name!r} has no zero inflation; it is for counts: {able}.")
    return zero_inflated(family)
