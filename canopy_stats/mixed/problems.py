"""The Laplace likelihood of a model frame, after checks of what the family can produce."""

from __future__ import annotations

from canopy_stats.mixed import blocks, checks
from canopy_stats.mixed.laplace import Problem
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.schema import UserError


def make_problem(frame: ModelFrame) -> Problem:
    """Checked data of one marginal likelihood."""
    check_response(frame)
    layout = blocks.make_layout(frame.factors) if frame.factors else None
    problem = Problem(
        frame.family, frame.y, frame.design.fixed.matrix, frame.dispersion_matrix, frame.factors, layout,
        frame.total_offset, frame.weights,
    )
    checks.check_rows(frame.nobs, sum(problem.sizes))
    return problem


def check_response(frame: ModelFrame) -> None:
    """Refuse responses outside the family's range, naming rows."""
    y, name, family, data = frame.y, frame.design.response, frame.family.name, frame.design.data
    checks.check_response(y, name)
    outside = (y < 0) | (y > 1)
    if family != "gaussian" and outside.any():
        rows = checks.name_rows(data, outside)
        raise UserError(f"{name} is outside [0, 1] in {rows}, which family={family!r} cannot have. Mend these rows.")
    edge = (y == 0) | (y == 1)
    if family == "beta" and edge.any():
        raise UserError(
            f"{name} is exactly 0 or 1 in {checks.name_rows(data, edge)}, which a beta distribution cannot"
            " produce. Use family='ordbeta', or ask for squeeze=1e-6 to move these values inside."
        )
