"""Why a fit may, or may not, be called converged."""

from __future__ import annotations

from dataclasses import dataclass, field

GRADIENT_TOLERANCE = 1e-3
"""Largest accepted distance to the optimum in standard errors, by the quadratic approximation."""


@dataclass(frozen=True)
class Certificate:
    """Evidence on one optimisation.

    ``distance`` is sqrt(g' A g), g the gradient and A the inverse Hessian of the negative log-likelihood: how far, in
    standard errors, the optimum still is. ``boundary`` maps variance components at zero (or correlations at one) to
    the derivative of the log-likelihood there, in the component's variance: negative means that zero is the optimum.
    ``second_start`` is the log-likelihood of a second start minus this one's (None: not asked for).
    """

    optimiser: str
    returned: str
    evaluations: int
    distance: float
    hessian_positive: bool
    boundary: dict[str, float] = field(default_factory=dict)
    second_start: float | None = None
    culprits: tuple[str, ...] = ()

    @property
    def converged(self) -> bool:
        """All evidence agrees; nothing else may say 'converged'."""
        agrees = self.second_start is None or abs(self.second_start) < 1e-4
        inside = all(derivative <= 0 for derivative in self.boundary.values())
        return self.distance < GRADIENT_TOLERANCE and self.hessian_positive and inside and agrees

    def __str__(self) -> str:
        lines = [
            f"{'converged' if self.converged else 'NOT converged'} ({self.optimiser}: {self.returned},"
            f" {self.evaluations} evaluations)",
            f"distance to the optimum {self.distance:.1e} standard errors; Hessian"
            f" {'positive definite' if self.hessian_positive else 'NOT positive definite'}",
            *(f"on the boundary: {name}, derivative there {d:.3g}" for name, d in self.boundary.items()),
        ]
        if self.second_start is not None:
            lines.append(f"second start: log-likelihood differs by {self.second_start:.1e}")
        return "\n".join([*lines, *self.culprits])
