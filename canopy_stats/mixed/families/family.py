"""What a response distribution is: one record that answers everything the fits ask of it.

A family is written for its natural predictor s (logit of the mean for shares, its logarithm for positive means, the
mean itself for gaussian) and reaches other links by the chain rule (``chain.py``). The row's other predictors are kappa
(log dispersion), zeta (logit of the probability of a zero) and the cutpoint parameters shared by all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Log-density by row (n,) and its derivatives.

    d1, d2, d3 in eta; k1, kk in kappa; z1, zz in zeta; dk, ddk and dz, ddz mixed (once and twice eta, once the other).
    ``cut1``, ``dcut``, ``ddcut`` (n, c) in the cutpoint parameters, and with eta once and twice. ``fisher`` is a
    positive stand-in for -d2 (its expectation, or near it). Fields beyond d2 and fisher are None at order 2, and where
    the family lacks the parameter.
    """

    value: Array
    d1: Array
    d2: Array
    fisher: Array
    d3: Array | None = None
    k1: Array | None = None
    kk: Array | None = None
    dk: Array | None = None
    ddk: Array | None = None
    z1: Array | None = None
    zz: Array | None = None
    dz: Array | None = None
    ddz: Array | None = None
    cut1: Array | None = None
    dcut: Array | None = None
    ddcut: Array | None = None

    def times(self, weights: Array) -> Derivatives:
        """Every derivative times prior weights (n,)."""
        values: list[Any] = [getattr(self, name) for name in self.__slots__]
        scaled: list[Any] = [None if value is None else (value.T * weights).T for value in values]
        return Derivatives(*scaled)


Density = Callable[[Array, int], Derivatives]
"""eta (n,) and order (2 or 3) to Derivatives, for a fixed response and everything else fixed."""


@dataclass(frozen=True, slots=True)
class Others:
    """What a row depends on besides eta: kappa (n,), zeta (n,), cutpoint parameters (c,) and trials (n,)."""

    kappa: Array
    zeta: Array
    cut: Array
    trials: Array

    def at(self, rows: Array) -> Others:
        """Those of some rows."""
        return replace(self, kappa=self.kappa[rows], zeta=self.zeta[rows], trials=self.trials[rows])


def others(n: int, *, kappa: Array | None = None, zeta: Array | None = None, cut: Array | None = None,
           trials: Array | None = None) -> Others:
    """``Others`` of n rows, what is not given at its neutral value."""
    zero = np.zeros(n)
    return Others(zero if kappa is None else kappa, zero if zeta is None else zeta,
                  zero[:0] if cut is None else cut, np.ones(n) if trials is None else trials)


@dataclass(frozen=True)
class Cuts:
    """Cutpoints (K,) in increasing order and the parameters (c,) that they are estimated by.

    ``points`` gives cutpoints (possibly infinite), ``jacobian`` (K, c) their derivatives in the parameters, ``start``
    parameters from the response and eta (n,).
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    points: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]
    start: Callable[[Array, Array], Array]


NO_CUTS = Cuts((), (), lambda cut: np.empty(0), lambda cut: np.zeros((0, 0)), lambda y, eta: np.empty(0))

Maker = Callable[[str | None, tuple[Any, ...], tuple[str, ...]], "Family"]
Learner = Callable[[Array, tuple[Any, ...]], tuple[Any, ...]]
Refusal = tuple[Array, str]
"""Mask (n,) of the rows that a family cannot have, and the sentence about them with {name} and {rows} to fill in."""


def _one(kappa: Array, y: Array) -> float:
    return 1.0


@dataclass(frozen=True, eq=False)
class Family:
    """A response distribution.

    ``bind`` fixes response and other predictors and gives the density; ``mean`` and ``variance`` are of the response
    (of successes over trials where there are trials), ``draw`` is on the response's scale, ``cdf`` gives P(Y < y) and
    P(Y <= y), ``probabilities`` those of ordered categories (n, K). ``start`` guesses eta from the response alone (NaN
    for rows that tell nothing), ``start_kappa`` the log dispersion from the response, its trials and the residuals of
    that guess, ``start_zeta`` the logit of the probability of a zero. ``dispersion`` says in words what kappa is, and
    is empty where there is no dispersion. ``unit`` is what counts as one on the scale of eta, from kappa and the
    response; predictors outside ``eta_range`` and log dispersions beyond ``kappa_range`` (``sharp`` says what that
    means) are suspicious. ``zero`` is "inflation" or "hurdle" where zeros have a predictor of their own. ``make``
    builds the family from link, ``facts`` (what ``learn`` took from the response) and ``labels`` of its categories;
    ``wrap`` adds zero inflation. ``normal`` says that responses are normal about eta itself.
    """

    name: str
    link: str
    bind: Callable[[Array, Others], Density]
    mean: Callable[[Array, Others], Array]
    variance: Callable[[Array, Others], Array]
    draw: Callable[[Array, Others, np.random.Generator], Array]
    cdf: Callable[[Array, Array, Others], tuple[Array, Array]]
    refuse: Callable[[Array, Array], Iterator[Refusal]]
    start: Callable[[Array, Array], Array]
    start_kappa: Callable[[Array, Array, Array], float] | None = None
    start_zeta: Callable[[Array], float] | None = None
    dispersion: str = ""
    unit: Callable[[Array, Array], float] = _one
    eta_range: tuple[float, float] = (-np.inf, np.inf)
    kappa_range: tuple[float, float] = (-np.inf, np.inf)
    sharp: str = "their responses hardly vary."
    cuts: Cuts = NO_CUTS
    probabilities: Callable[[Array, Others], Array] | None = None
    normal: bool = False
    counts: bool = False
    trials: bool = False
    zero: str = ""
    make: Maker | None = None
    learn: Learner | None = None
    wrap: Callable[[Family], Family] | None = None
    facts: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()

    def for_response(self, y: Array, labels: tuple[str, ...] = ()) -> Family:
        """The family with what it learns from a response (n,): edges of ordbeta, categories (and their labels)."""
        if self.learn is None or self.make is None:
            return self
        return rebuild(self.make, self.link, self.learn(y, self.facts), labels or self.labels, self.wrap)

    def __reduce__(self) -> tuple[Any, ...]:
        """Families hold closures: they are copied and sent to other processes by what made them."""
        return rebuild, (self.make, self.link, self.facts, self.labels, self.wrap)

    @property
    def n_cut(self) -> int:
        """Number of cutpoint parameters."""
        return len(self.cuts.parameters)

    @property
    def has_dispersion(self) -> bool:
        return bool(self.dispersion)

    @property
    def has_intercept(self) -> bool:
        """Whether the mean's predictor has an intercept: not where cutpoints take its place."""
        return self.probabilities is None


def rebuild(make: Maker, link: str | None, facts: tuple[Any, ...], labels: tuple[str, ...],
            wrap: Callable[[Family], Family] | None) -> Family:
    """A family by what makes it."""
    family = make(link, facts, labels)
    return family if wrap is None else wrap(family)
