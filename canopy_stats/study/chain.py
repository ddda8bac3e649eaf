"""The chain: generate, check, embed and measure into the panel, fit, tables, figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from canopy_stats import __version__, files
from canopy_stats.study import summary, work
from canopy_stats.study.record import Study, choose_prompts
from canopy_stats.study.stages import Say, code_hash, staged, timed

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import SlopeChange
    from canopy_stats.store import Run

Runs = Mapping[str, "Run"]
MODELS: tuple[Literal["main", "interaction", "quadratic"], ...] = ("main", "interaction", "quadratic")


@dataclass(frozen=True)
class StudyResult:
    """What a study found and where it lies.

    ``runs`` by name, ``changes`` one for each slope model, ``checks`` one row a run; ``seconds`` is what each stage
    took in this call.
    """

    out: Path
    study: Study
    runs: Runs = field(repr=False)
    panel: pd.DataFrame = field(repr=False)
    slopes: pd.DataFrame = field(repr=False)
    changes: tuple[SlopeChange, ...] = field(repr=False)
    checks: pd.DataFrame = field(repr=False)
    tables: list[Path] = field(repr=False)
    figures: list[Path] = field(repr=False)
    seconds: dict[str, float] = field(default_factory=dict)


def run_study(study: Study, out: str | Path, *, say: Say = print, progress: bool = True) -> StudyResult:
    """Run or resume every stage of a study in the folder ``out``, and say what it finds."""
    out = Path(out)
    files.make_folder(out)
    with work.quiet():
        result = _stages(study, out, say, progress)
    files.write_atomic(out / "summary.md", summary.page(result).encode())
    say(summary.closing(result))
    return result


def _stages(study: Study, out: Path, say: Say, progress: bool) -> StudyResult:
    seconds = dict[str, float]()
    with timed("generate", seconds, say):
        runs = generate_all(study, out, say, progress)
    with timed("check", seconds, say):
        checks = check_all(study, out, runs)
    with timed("embed and measure", seconds, say):
        panel = make_panel(study, out, runs)
    with timed("fit", seconds, say):
        slopes, changes = fit_slopes(panel)
    with timed("tables", seconds, say):
        tables = write_tables(out, panel, slopes, checks)
    with timed("figures", seconds, say):
        figures = draw_figures(out, runs, panel, changes)
    return StudyResult(out, study, runs, panel, slopes, changes, checks, tables, figures, seconds)


# --- rollouts ---------------------------------------------------------------------------------------------------


def generate_all(study: Study, out: Path, say: Say, progress: bool) -> dict[str, Run]:
    """One run for each checkpoint and task."""
    for task, source in study.tasks.items():
        choose_prompts(source, study.prompts_per_task, work.prompts_of(out, task))
    if study.workers is None:
        return work.draw_here(study, out, say, progress)
    return work.draw_apart(study, out, study.workers, say)


def _contents(runs: Runs) -> dict[str, str]:
    return {name: run.content_hash for name, run in runs.items()}


def check_all(study: Study, out: Path, runs: Runs) -> pd.DataFrame:
    """The check of every run, a row each; checks.csv keeps every finding."""
    import pandas as pd

    found = pd.concat([work.checked(study, run, name).assign(run=name) for name, run in runs.items()])
    files.write_atomic(out / "checks.csv", found.to_csv(index=False).encode())
    return one_row_each(found)


def one_row_each(found: pd.DataFrame) -> pd.DataFrame:
    """Findings as one row a run: z-scores, the worst difference from plain transformers, flips, and the verdict."""
    import pandas as pd

    by_run = found.pivot(index="run", columns="name", values="value").reindex(found["run"].unique())
    wrong = found["ok"].eq(False).groupby(found["run"]).any()
    shown = {"z of S - H": "z of S - H", "z of stops - A": "z of stops - A", "entropy": "entropy off by",
             "logprob": "log-prob off by", "redraw flips": "redraw flips"}
    table = pd.DataFrame({title: by_run[name] for name, title in shown.items() if name in by_run})
    return table.assign(holds=~wrong.reindex(table.index)).reset_index(names="run")


# --- panel and slopes -------------------------------------------------------------------------------------------


def make_panel(study: Study, out: Path, runs: Runs) -> pd.DataFrame:
    """The panel, embedding what is not yet embedded: embeddings are kept in the runs' folders."""
    from canopy_stats.metrics.embed import resolve
    from canopy_stats.panel import panel, read_panel, write_panel

    identity = dict(resolve(study.embedder).identity or {})
    key = {"runs": _contents(runs), "embedder": identity, "code": code_hash("metrics", "panel")}

    def make() -> list[Path]:
        note = {"canopy_stats": __version__, "study": study.described(), **key}
        write_panel(panel(list(runs.values()), embedder=study.embedder), out / "panel.parquet", note)
        files.write_atomic(out / "panel.json", json.dumps(note, indent=1, ensure_ascii=False).encode())
        return [out / "panel.parquet", out / "panel.json"]

    return read_panel(staged(out, "panel", key, make)[0])


def fit_slopes(panel: pd.DataFrame) -> tuple[pd.DataFrame, tuple[SlopeChange, ...]]:
    """The slope table, and each of its models' slope change."""
    from canopy_stats.slope import slope_change, slope_table

    return slope_table(panel), tuple(slope_change(panel, model=model) for model in MODELS)


def write_tables(out: Path, panel: pd.DataFrame, slopes: pd.DataFrame, checks: pd.DataFrame) -> list[Path]:
    """Every table in every printed form."""
    from canopy_stats.report import tables

    made = {"slopes": (slopes, tables.slopes(slopes), "Slope of semantic diversity on entropy rate"),
            "base_tuned": (tables.base_tuned(panel), None, "Base against tuned"),
            "decomposition": (tables.decomposition(panel), None, "Canopy entropy in three terms"),
            "checks": (checks, None, "Check of the runs")}
    return [path for name, (table, shown, caption) in made.items()
            for path in tables.write(table, out / "tables" / name, caption, shown=shown)]


# --- figures ----------------------------------------------------------------------------------------------------


def draw_figures(out: Path, runs: Runs, panel: pd.DataFrame, changes: Sequence[SlopeChange]) -> list[Path]:
    """Every figure as SVG and PNG, unless they were drawn from the same runs, panel and code."""
    def make() -> list[Path]:
        from canopy_stats.report.figures import save

        return [path for name, figure in _drawn(runs, panel, changes) for path in save(figure, out / "figures" / name)]

    key = {"runs": _contents(runs), "panel": files.file_sha256(out / "panel.parquet"),
           "code": code_hash("report", "slope", "mixed", "metrics", "study")}
    return staged(out, "figures", key, make)


def _drawn(runs: Runs, panel: pd.DataFrame, changes: Sequence[SlopeChange]) -> Iterator[tuple[str, Any]]:
    from canopy_stats.report import figures, tables

    fit = next(change.fit for change in changes if change.model == "interaction")
    yield "diversity_by_family", figures.diversity_against_rate(panel, fit)
    yield "diversity_by_task", figures.diversity_against_rate(panel, fit, by="task")
    yield "slopes", figures.slope_forest(forest_rows(changes))
    yield "decomposition", figures.decomposition_bars(tables.decomposition(panel))
    yield "lengths", figures.length_histograms(_rows(runs, "rollouts", ["length", "finish_reason"]))
    yield "entropy_profile", figures.entropy_profile(_rows(runs, "steps", ["step", "entropy"]), by="task")
    yield "cap_sensitivity", figures.cap_curves(curves_by_checkpoint(runs))


_IDENTITY = ("task", "model_name", "model_variant")


def _identity(run: Run) -> dict[str, str]:
    return dict(zip(_IDENTITY, (run.config.task, run.config.family, run.config.variant), strict=True))


def _rows(runs: Runs, kind: Literal["rollouts", "steps"], columns: list[str]) -> pd.DataFrame:
    """Some columns of all runs' rollouts or steps, with task, family and variant."""
    import pandas as pd

    parts = [getattr(run, kind)(columns).to_pandas().assign(**_identity(run)) for run in runs.values()]
    return pd.concat(parts, ignore_index=True).astype(dict.fromkeys(_IDENTITY, "category"))


def curves_by_checkpoint(runs: Runs) -> pd.DataFrame:
    """Each checkpoint's cap curve, averaged over its tasks, which all have the same number of prompts."""
    import pandas as pd

    from canopy_stats.metrics import cap_curve

    parts = [cap_curve(run).rename(columns={"mean_length": "N_bar", "mean_rate": "R_bar"}).assign(**_identity(run))
             for run in runs.values()]
    grouped = pd.concat(parts, ignore_index=True).groupby(["model_name", "model_variant", "cap"], sort=False)
    return grouped[["CE", "N_bar", "R_bar", "truncation_rate"]].mean().reset_index()


def forest_rows(changes: Sequence[SlopeChange]) -> pd.DataFrame:
    """Slope changes as the forest draws them; of a model with one slope for both variants only that one."""
    import pandas as pd

    return pd.DataFrame([_forest_row(change) for change in changes])


def _forest_row(change: SlopeChange) -> dict[str, Any]:
    row: dict[str, Any] = {"model": f"{change.model} model"}
    for name in ("base", "tuned", "difference"):
        estimate, hidden = getattr(change, name), change.model == "main" and name != "base"
        low, high = estimate.interval
        values = [float("nan")] * 3 if hidden else [estimate.estimate, low, high]
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return row | {"ratio": None if change.model == "main" else f"{change.ratio.estimate:.2f}"}
