"""Commands that make a panel and read it: panel, fit, scrutinise, curve, power."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from canopy_stats import __version__
from canopy_stats.cli.command import OK, Command
from canopy_stats.cli.inputs import open_panel, open_runs
from canopy_stats.cli.options import (
    csv_option,
    embedder_option,
    json_option,
    only,
    runs_argument,
    whole_number,
    whole_numbers,
    workers_option,
)
from canopy_stats.cli.printing import label_of, note, paragraph, show, tell, write_csv, written
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange
    from canopy_stats.store import Run


def _panel(options: argparse.Namespace) -> int:
    from canopy_stats.files import make_folder, place
    from canopy_stats.panels import panel, write_panel

    out = place(options.out)
    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out is {options.out}; give a file name that ends in .parquet or .csv.")
    runs = open_runs(options.runs)
    table = panel(runs, embedder=options.embedder, entropy=options.entropy)
    make_folder(out.parent)
    write_panel(table, out, _panel_provenance(runs, options))
    options.answer = table
    tell(f"{out}: {len(table):,} rows, {table['prompt_uid'].nunique():,} prompts, "
          f"{table['model_name'].nunique()} families, variants {', '.join(sorted(table['model_variant'].unique()))}")
    return OK


def _panel_provenance(runs: Sequence[Run], options: argparse.Namespace) -> dict[str, Any]:
    return {"command": options.command_line, "canopy_stats": __version__, "embedder": options.embedder,
            "runs": [{"run": run.path.name, "label": label_of(run), "run_id": run.run_id, "content": run.content_hash,
                      "law": run.config.policy.label()} for run in runs]}


def _panel_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    embedder_option(command, "minilm")
    command.add_argument("--out", required=True, metavar="FILE",
                         help="NAME.parquet or NAME.csv; how it was made is kept with it")
    command.add_argument("--entropy", choices=["exact", "interval", "missing"], default="exact",
                         help="what the panel holds of entropies: imported runs without their model have bounds "
                              "(interval) or none (missing) and are refused otherwise (default exact)")
    json_option(command)


PANEL = Command(
    "panel", reads="runs", gives="one table, a row for each prompt and model",
    summary="one table from many runs", run=_panel, add_options=_panel_options,
    teaching="""
    Measure runs and put them into one table: a row for each (task, prompt, family, variant). Runs with different
    sampling laws or prompts do not mix. Which runs it holds is kept inside the Parquet file, or beside the CSV.

    Example:
      canopy-stats panel runs/alder-* --embedder minilm --out panel.parquet
    """)


def _fit(options: argparse.Namespace) -> int:
    from canopy_stats.slope import slope_change, slope_table

    panel = open_panel(options.panel)
    if options.formula:
        from canopy_stats.mixed import lmm

        fit = lmm(options.formula, panel, reml=not options.ml)
        options.answer = fit.tidy()
        tell(fit.summary())
        write_csv(options.answer, options.csv)
    elif options.model == "all":
        options.answer = table = slope_table(panel)
        show(table, options.csv)
        for text in table.attrs.get("notes", []):
            tell(note(f"note: {text}"))
    else:
        change = slope_change(panel, model=options.model, bootstrap=options.bootstrap, seed=options.seed,
                              workers=options.workers)
        options.answer = change.to_frame()
        _show_change(change, options.csv)
    return OK


def _show_change(change: SlopeChange, csv: str | None) -> None:
    """One model in detail: its fit (or the cells' slopes behind the robust one), then what it says of the slopes."""
    if change.fit is not None and change.cells is None:
        tell(change.fit.summary())
    tell()
    for name in ("base", "tuned", "difference", "ratio"):
        e = getattr(change, name)
        error = f"se {e.se:.4f}" if e.kind == "bounded" else " " * 9
        tell(f"{name:<11}{e.estimate:>9.4f}  {error}  95% {e.interval.words()}")
        if name in change.intervals:
            tell(f"{'':<11}{'bootstrap':>9}             95% {change.intervals[name].words()}")
    if change.cells is not None:
        tell("\nSlopes by family and task, over the shared rates:")
        show(change.cells)
    tell("\n".join(["", paragraph(change.estimand), "", paragraph(change.verdict), *map(note, change.notes)]))
    if change.fit is not None:
        write_csv(change.fit.tidy(), csv)


def _fit_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("panel", nargs="?", help="panel file (.parquet or .csv); without it, the panel inside the package")
    add("--model", default="all",
        choices=["main", "interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse", "robust", "all"],
        help="one of the paper's models, or the robust slope, in detail; all (default) is the linear ones in one table")
    add("--bootstrap", type=whole_number(0), default=0, metavar="N", help="with --model: N resamples of whole prompts")
    add("--seed", type=whole_number(0), metavar="S", help="seed of the bootstrap")
    add("--workers", type=whole_number(1), default=1, metavar="W", help="processes of the bootstrap (default 1)")
    add("--formula", help='your own model, such as "D ~ R_bar*model_variant + (1|prompt_uid)"; it may call '
                           "Python, so never give one that you have not read")
    add("--ml", action="store_true", help="with --formula: maximum likelihood instead of REML")
    csv_option(command)
    json_option(command)


FIT = Command(
    "fit", reads="a panel", gives="how the slope of diversity on entropy rate changes",
    summary="how the slope of diversity on entropy rate changes", run=_fit, add_options=_fit_options,
    teaching="""
    Fit the paper's linear mixed models to a panel and print one row for each: the slope of D on R_bar in the base
    models, in the tuned ones, their difference, and their ratio with its interval.

    Read the difference first. The ratio means something only where the base slope is clearly not zero: its
    interval is Fieller's, which may be the whole line ('whole') or leave out its middle ('exclusive').

    Examples:
      canopy-stats fit                              (the panel inside the package)
      canopy-stats fit panel.parquet --model robust
      canopy-stats fit panel.parquet --model paper_beta --bootstrap 999 --seed 1 --workers 2
      canopy-stats fit panel.parquet --formula "D ~ R_bar*model_variant + N_bar + task + (1|prompt_uid)"
    """)


def _scrutinise(options: argparse.Namespace) -> int:
    from canopy_stats.report import views
    from canopy_stats.report.printed import console
    from canopy_stats.slope import slope_scrutiny

    found = slope_scrutiny(open_panel(options.panel), paper=options.paper)
    options.answer = found.table
    tell(console(views.scrutiny(found.table)))
    write_csv(found.table, options.csv)
    tell("\nThe difference in every version:")
    show(found.claims.drop(columns="meaning"))
    if len(found.left_out):
        tell("\nThe robust difference without one family or one task:")
        show(found.left_out)
    if found.robust.cells is not None:
        tell("\nThe robust slope by family and task, over the rates that base and tuned share:")
        show(found.robust.cells)
    robust = found.robust
    tell("\n".join(["", paragraph(found.verdict), "", paragraph(robust.estimand), *map(note, robust.notes)]))
    return OK


def _scrutinise_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("panel", nargs="?", help="a .parquet or .csv panel (default: the one in the package)")
    command.add_argument("--paper", default="paper_beta",
                         choices=["interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse"],
                         help="which of the paper's models (default paper_beta, its headline)")
    csv_option(command)
    json_option(command)


SCRUTINISE = Command(
    "scrutinise", reads="a panel", gives="the paper's slope beside one that withstands the known artefacts",
    summary="the paper's slope and a robust one, side by side", run=_scrutinise, add_options=_scrutinise_options,
    teaching="""
    Fit the paper's headline model and the robust slope to one panel, and say in words whether they agree. The
    robust slope compares base and tuned at rates that both have, with one curve shared by both, slopes free in
    every family and task, and rate, length and diversity corrected for measurement error.

    Examples:
      canopy-stats scrutinise                       (the panel inside the package)
      canopy-stats scrutinise panel.parquet --paper interaction
    """)


def _curve(options: argparse.Namespace) -> int:
    from canopy_stats.slope import specification_curve

    named = [text.rpartition("=") for text in options.panels]
    panels = {name: open_panel(path) for name, _, path in named}
    if len(panels) < len(named):
        raise UserError("Several panels need a name each, such as minilm=a.parquet tfidf=b.parquet.")
    panels = panels or {"": open_panel(None)}
    curve = specification_curve(panels if len(panels) > 1 else next(iter(panels.values())),
                                choices=dict(options.only), workers=options.workers)
    options.answer = curve.table
    show(curve.agreement, options.csv, whole=curve.table)
    tell(f"\n{paragraph(curve.words)}")
    if options.figure:
        from canopy_stats.report.figures import save, specification_figure

        written(*save(specification_figure(curve.table), options.figure))
    return OK


def _curve_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("panels", nargs="*", metavar="PANEL",
        help="panel file (.parquet or .csv); several as NAME=FILE, one for each embedder; none: the package's panel")
    add("--only", action="append", type=only, default=[], metavar="CHOICE=OPTION,...",
        help="keep these options of a choice, such as --only model=beta --only response=D,Vendi; may be repeated")
    workers_option(command)
    add("--figure", metavar="STEM", help="draw the curve into STEM.svg and STEM.png")
    csv_option(command)
    json_option(command)


CURVE = Command(
    "curve", reads="a panel", gives="the change of slope under every defensible specification",
    summary="does the change of slope hang on how it is modelled?", run=_curve, add_options=_curve_options,
    teaching="""
    Fit every combination of the choices that one could defend, and count how many agree: response (D, Vendi, RSE),
    model (beta, linear), rate (straight, or smooth: one curve that base and tuned share), length (spline, log,
    none), task and family (fixed, random), slopes (same, or vary by task and family), support (all rates, or those
    that base and tuned share). Options that do not apply to the panel are left out and named.

    Prints the counts by choice. The differences are in standard deviations of the response for each standard
    deviation of the rate. Specifications share their data: the counts are no test. --csv writes one row for each
    specification, failed ones with their reason. A few minutes on two cores for 576 specifications.

    None of them frees levels and slopes in every family and task at once: `canopy-stats scrutinise` does.

    Examples:
      canopy-stats curve                            (the panel inside the package)
      canopy-stats curve panel.parquet --only model=beta --figure figures/curve --csv curve.csv --workers 2
      canopy-stats curve minilm=a.parquet tfidf=b.parquet
    """)


def _power(options: argparse.Namespace) -> int:
    from canopy_stats.slope import slope_power

    method = "closed" if options.quick else "simulation"
    found = slope_power(
        open_panel(options.panel), effect=options.effect, prompts=options.prompts, rollouts=options.rollouts,
        families=options.families, model="interaction" if options.quick else options.model, method=method,
        replicates=options.sims, seed=options.seed, workers=options.workers)
    options.answer = found.table
    show(found.table.drop(columns=["sd_z", "mean_estimate", "replicates"]), options.csv, whole=found.table)
    tell(f"\n{paragraph(found.words)}")
    if options.budget:
        tell(paragraph(found.recommend(options.budget)))
    if options.figure:
        from canopy_stats.report.figures import power_figure, save

        written(*save(power_figure(found.table), options.figure))
    return OK


def _power_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("panel", nargs="?", help="pilot panel (.parquet or .csv); without it, the panel inside the package")
    add("--effect", type=float, required=True, metavar="D",
        help="difference of slopes worth finding: logit per standard deviation of the pilot's entropy rate")
    add("--prompts", type=whole_numbers, default=[25, 50, 100], metavar="P,P,...",
        help="prompts of each task (default 25,50,100)")
    add("--rollouts", type=whole_numbers, default=[5, 10, 25], metavar="M,M,...",
        help="rollouts of each prompt (default 5,10,25)")
    add("--families", type=whole_numbers, metavar="F,F,...", help="model families (default: as many as the pilot has)")
    add("--model", choices=["robust", "interaction", "paper_beta"], default="robust",
        help="what the study will be analysed with (default robust)")
    add("--budget", type=float, metavar="T", help="say how to split T tokens between prompts and rollouts")
    add("--sims", type=whole_number(1), metavar="S", help="simulated panels of each size (default 100)")
    add("--quick", action="store_true", help="the interaction model by its closed form: a minute instead of many")
    add("--seed", type=whole_number(0), default=0, help="of the simulation")
    workers_option(command)
    add("--figure", metavar="STEM", help="draw power against prompts into STEM.svg and STEM.png")
    csv_option(command)
    json_option(command)


POWER = Command(
    "power", reads="a pilot panel", gives="how large must a study be?",
    summary="how many prompts, rollouts and families does a study need?", run=_power, add_options=_power_options,
    teaching="""
    Learn from a pilot panel how rates, lengths and diversity vary between prompts, tasks and families and how well
    M rollouts measure them; draw new panels of each size from that; analyse each with the model that the study
    will use; count how often it finds a difference of slopes that is there.

    Also runs studies without any effect. A model that "finds" one there more often than in 5% does not keep its
    level on data like the pilot's, and its power means nothing; the last lines say so. Choose as --effect the
    smallest difference worth finding, not the pilot's own estimate, which is as uncertain as the pilot is small.

    Examples:
      canopy-stats power --effect 0.1 --quick       (the panel inside the package)
      canopy-stats power pilot.parquet --effect 0.15 --prompts 20,50,100 --rollouts 5,10,20 --families 3,6 \\
          --budget 2e7 --figure figures/power --workers 2
    """)


COMMANDS = (PANEL, FIT, SCRUTINISE, CURVE, POWER)
