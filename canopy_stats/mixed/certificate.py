"""Why a fit may, or may not, be called converged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any


@dataclass(frozen=True)
class Tolerances:
    """What a way of fitting counts as done, zero or equal.

    ``distance`` is the largest accepted way to the optimum in standard errors; ``zero`` the standard deviation that
    counts as none (relative to sigma, or to the smallest start); ``likelihood`` the difference of log-likelihoods that
    is none. The search ends where the decrement g' H^-1 g falls below ``search``, its last Newton steps below
    ``polish``; the Hessian is made anew after steps with s' H s above ``moved``; replicates are taken up to ``quick``.
    """

    distance: float = 1e-3
    zero: float = 1e-4
    likelihood: float = 1e-4
    search: float = 1e-6
    polish: float = 1e-12
    moved: float = 1e-5
    quick: float = 1e-4


LINEAR = Tolerances(search=1e-9)
LAPLACE = Tolerances(zero=2e-2)


@dataclass(frozen=True)
class Certificate:
    """Evidence on one optimisation.

    ``distance`` is sqrt(g' A g), g the gradient and A the inverse Hessian of the negative log-likelihood: how far, in
    standard errors, the optimum still is. ``boundary`` maps variance components at zero (or correlations at one) to
    the derivative of the log-likelihood there, in the component's variance: negative means that zero is the optimum.
    ``second_start`` is the log-likelihood that a second start reached, minus the first one's (None: not asked for, nan:
    it failed); the fit is the better of the two, and a difference in either direction is told.
    """

    optimiser: str
    returned: str
    evaluations: int
    distance: float
    hessian_positive: bool
    boundary: dict[str, float] = field(default_factory=dict)
    second_start: float | None = None
    culprits: tuple[str, ...] = ()
    tolerances: Tolerances = LINEAR

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Certificate:
        """The certificate that ``dataclasses.asdict`` took apart."""
        known: dict[str, Any] = {"culprits": tuple(stored.get("culprits", ()))}
        if "tolerances" in stored:
            known["tolerances"] = Tolerances(**stored["tolerances"])
        return cls(**{**stored, **known})

    @property
    def converged(self) -> bool:
        """A maximum by gradient, curvature and boundary; nothing else may say 'converged'."""
        inside = all(derivative <= 0 for derivative in self.boundary.values())
        return self.distance < self.tolerances.distance and self.hessian_positive and inside

    def __str__(self) -> str:
        lines = [
            f"{'converged' if self.converged else 'NOT converged'} ({self.optimiser}: {self.returned},"
            f" {self.evaluations} evaluations)",
            f"distance to the optimum {self.distance:.1e} standard errors (accepted: {self.tolerances.distance:g});"
            f" Hessian"
            f" {'positive definite' if self.hessian_positive else 'NOT positive definite'}",
            *(f"on the boundary: {name}, derivative there {d:.3g}" for name, d in self.boundary.items()),
        ]
        if self.second_start is not None:
            lines.append(_second(self.second_start, self.tolerances.likelihood))
        return "\n".join([*lines, *self.culprits])

    def _repr_html_(self) -> str:
        """The verdict in bold, the evidence below it."""
        first, *rest = str(self).split("\n")
        items = "".join(f"<li>{escape(line)}</li>" for line in rest)
        return f"<p><b>{escape(first)}</b></p><ul>{items}</ul>"


def _second(gain: float, tolerance: float) -> str:
    if abs(gain) <= tolerance:
        return f"second start: the same optimum (log-likelihood differs by {gain:.1e})"
    if gain != gain:
        return "second start: failed, so it tells nothing"
    where = "a higher likelihood" if gain > 0 else "a worse local optimum"
    return f"second start: {where} (difference {gain:.3g}): there are several optima, the better certified is kept"
