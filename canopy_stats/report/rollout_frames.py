"""Tables that need the rollouts themselves, and not the panel alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from canopy_stats.checks import FORMS
from canopy_stats.metrics.embed import kept_as
from canopy_stats.metrics.measures import measure
from canopy_stats.metrics.pooling import LENGTH_RHOS, pool_length_diversity
from canopy_stats.report.source import BASE, Source, identity
from canopy_stats.schema import RENDERED_TEXT, UserError

THIRDS = ("D_short", "D_middle", "D_long")
"""D among the shortest, middle and longest third of a prompt's rollouts."""
_OWN = (*LENGTH_RHOS, "cov_ND", "cov_ND_paper")


def length_diversity(source: Source) -> pd.DataFrame:
    """Length against each rollout's own diversity d_i = 1 − mean cosine to the others, a row per task, family and
    variant: correlations and covariance pooled as those of N and r are; and D within thirds of each prompt's rollouts.

    Needs the runs' embeddings, as their folders keep them.
    """
    embedder = str(source.panel["embedder"].iloc[0])
    rows: list[dict[str, Any]] = []
    for run in source.opened.values():
        found = measure(run, embedder=kept_as(run, embedder), extra=["length_diversity", "length_thirds"])
        pooled = pool_length_diversity(found, found["M"].to_numpy())
        means = {name: float(found[name].mean()) for name in ("D", *THIRDS)}
        rows.append({**identity(run), "prompts": len(found), **{name: pooled[name] for name in _OWN},
                     "left_out": pooled["rho_ND_pearson_left_out"], **means})
    table = pd.DataFrame(rows)
    table.attrs["notes"] = [
        "N: tokens of a rollout; d: 1 − its mean cosine to the prompt's other rollouts, whose mean is D. Correlations "
        "within prompts, pooled like those of N and r; left out: prompts without variance. Thirds of each prompt's "
        "rollouts by length; the table of lengths has thirds of the prompts."]
    return in_order(table)


# --- prompts by template and by rendered text -------------------------------------------------------------------


def rendered_text(source: Source) -> pd.DataFrame:
    """What tokenising rendered chat text once more changes of the same prompts, a row per run with a chat template:
    mean tokens, share of the prompts that differ, and share that begin with two BOS tokens, both ways; and by which the
    run was drawn. From the check of the runs."""
    assert source.findings is not None
    found = source.findings[source.findings["name"].str.startswith(f"{FORMS}: ")]
    if found.empty:
        raise UserError("No run of the study has prompts in words that go through a chat template, or the runs were "
                        "checked by an earlier version: the table needs the study's check of prompts.")
    rows = []
    for name, own in found.groupby("run", sort=False):
        run = source.opened[str(name)]
        values = dict(zip(own["name"].str.removeprefix(f"{FORMS}: "), own["value"], strict=True))
        rendered = run.config.model.get("chat") == RENDERED_TEXT
        rows.append({**identity(run), "drawn_by": RENDERED_TEXT if rendered else "template", **values})
    table = pd.DataFrame(rows)
    table.attrs["notes"] = ["The same prompts by their chat template as token ids, and as rendered text that is "
                            "tokenised again, as the paper ran it: tokenizers that add a BOS then add a second one. "
                            "Shares of prompts."]
    return in_order(table)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by task and family, the base first."""
    ranked = table.assign(_tuned=table["model_variant"].astype(str) != BASE)
    ordered = ranked.sort_values(["task", "model_name", "_tuned", "model_variant"], kind="stable", ignore_index=True)
    out = ordered.drop(columns="_tuned")
    out.attrs.update(table.attrs)
    return out


def shown_length_diversity(table: pd.DataFrame) -> Any:
    """The printed table: one covariance, and the count of prompts left out only where there are any."""
    hidden = [] if table["left_out"].any() else ["left_out"]
    return table.drop(columns=hidden)
