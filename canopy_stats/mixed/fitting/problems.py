"""The Laplace likelihood of a model frame, after checks of what the family can produce."""

from __future__ import annotations

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.fitting import quadrature
from canopy_stats.mixed.fitting.modes import Problem
from canopy_stats.mixed.formulas import checks
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.schema import UserError


def make_problem(frame: ModelFrame, nodes: int = 1) -> Problem:
    """Checked data of one marginal likelihood, integrated with ``nodes`` points (1: Laplace)."""
    check_response(frame)
    quadrature.check(frame.factors, nodes)
    layout = blocks.make_layout(frame.factors) if frame.factors else None
    problem = Problem(
        frame.family, frame.y, frame.design.fixed.matrix, frame.dispersion_matrix, frame.factors, layout, frame.offset,
        frame.weights, frame.trials, frame.zero_matrix, nodes,
    )
    checks.check_rows(frame.nobs, sum(problem.sizes))
    return problem


def check_response(frame: ModelFrame) -> None:
    """Refuse responses that the family cannot have, naming rows."""
    y, name = frame.y, frame.design.response
    checks.check_response(y / frame.trials, name)
    for rows, sentence in frame.family.refuse(y, frame.trials):
        if rows.any():
            where = checks.name_rows(frame.design.data, rows)
            raise UserError(sentence.format(name=name, rows=where, family=frame.family.name))
