"""Commands that measure runs: embed, measure, judge, rho."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from canopy_stats.cli.command import OK, Command
from canopy_stats.cli.inputs import open_runs
from canopy_stats.cli.options import (
    csv_option,
    embedder_option,
    json_option,
    runs_argument,
    whole_number,
    whole_numbers,
)
from canopy_stats.cli.printing import label_of, labelled, show, tell, write_csv, written
from canopy_stats.files import place
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run


def _embed(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats.metrics.embed import embed

    rows = []
    for run in open_runs(options.runs):
        made = embed(run, options.embedder, think=options.think)
        rows.append({"path": str(run.path), "run": label_of(run), "embedder": made.label,
                     "texts": len(made), "dimensions": made.dimensions,
                     "truncated": int(made.truncated.sum()), "empty": int(made.empty.sum())})
        tell(f"{run.path}: {len(made):,} texts embedded in {made.dimensions} dimensions by "
              f"{made.label}; {int(made.truncated.sum())} longer than it reads, {int(made.empty.sum())} empty")
    options.answer = pd.DataFrame(rows)
    return OK


def _embed_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    embedder_option(command, "minilm")
    command.add_argument("--think", choices=["keep", "drop"], default="keep",
                         help="what becomes of a <think> part (default keep)")
    json_option(command)


EMBED = Command(
    "embed", reads="runs", gives="embeddings of the rollouts' texts, kept in the run folders",
    summary="embed the rollouts' texts", run=_embed, add_options=_embed_options,
    teaching="""
    Turn the text of each rollout into a vector and keep the vectors in the run folder, where `measure` and
    `panel` find them. Texts longer than the embedder reads are counted: their endings do not enter diversity.

    Example:
      canopy-stats embed runs/alder-stories --embedder minilm
    """)


def _measure(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats.metrics import cap_curve, measure, three_level
    from canopy_stats.metrics.measures import STANDARD_ERRORS

    runs = open_runs(options.runs)
    measured = {label_of(run): measure(run, embedder=options.embedder, cap=options.cap, extra=options.extra)
                for run in runs}
    table = pd.concat(list(measured.values()), ignore_index=True)
    more = list(table)[list(table).index(STANDARD_ERRORS[-1]) + 1:] if STANDARD_ERRORS[-1] in table else []
    shown = [c for c in (*_MEASURE_SHOWN, *more) if c in table and table[c].notna().any()]
    show(table[shown], options.csv, whole=table)
    options.answer = table
    if exact := {label: m for label, m in measured.items() if "CE" in m}:
        tell("\nPooled CE* = mean N x mean r + covariance within prompts + covariance between prompts:")
        show(labelled({label: pd.DataFrame([three_level(m)]) for label, m in exact.items()}))
    if options.caps is not None:
        tell("\nUnder smaller length caps:")
        show(labelled({label_of(run): cap_curve(run, options.caps or None) for run in runs}))
    return OK


_MEASURE_SHOWN = ("task", "prompt_id", "model_name", "model_variant", "M", "N_bar", "R_bar",
                  "R_bar_low", "R_bar_high", "CE", "CE_low", "CE_high", "cov_NR", "cov_NR_low", "cov_NR_high",
                  "rho_pearson", "D", "VS", "truncation_rate")


def _measure_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    embedder_option(command, None)
    command.add_argument("--cap", type=int, metavar="N", help="measure as if the length cap had been N")
    command.add_argument("--extra", nargs="+", default=[], metavar="NAME",
                         help="further columns: vendi_2 (any order), length_diversity, length_thirds (with --embedder)")
    command.add_argument("--caps", type=whole_numbers, nargs="?", const=[], metavar="N,N,...",
                         help="also print the curve over these caps; alone, the run's cap halved again and again")
    csv_option(command)
    json_option(command)


MEASURE = Command(
    "measure", reads="runs", gives="entropy, length and diversity of each prompt",
    summary="entropy, length and diversity of each prompt", run=_measure, add_options=_measure_options,
    teaching="""
    Print one row for each prompt, then the pooled canopy entropy in three parts.

      N_bar, R_bar  mean length in tokens, mean entropy rate in nats per token
      CE            canopy entropy in nats: N_bar * R_bar + cov_NR, exactly
      rho_pearson   correlation of length and rate over the rollouts
      D, VS         semantic diversity and Vendi score (with --embedder)

    Of imported runs without their model there are bounds (R_bar_low, R_bar_high, ...) or lengths and diversity alone.

    Examples:
      canopy-stats measure runs/alder-stories --embedder minilm --csv measures.csv
      canopy-stats measure runs/alder-stories --caps 20,40,80
      canopy-stats measure runs/alder-stories --embedder minilm --extra vendi_2 length_thirds
    """)


def _judge(options: argparse.Namespace) -> int:
    from math import log

    import pandas as pd

    from canopy_stats.metrics.judge import judge_run

    spec = _judge_spec(options)
    _judge_files(options)
    runs = open_runs(options.runs)
    judged = [judge_run(run, spec) for run in runs]
    tables = {label_of(run): table for run, table in zip(runs, judged, strict=True)}
    show(labelled({label: table[_JUDGE_SHOWN].copy() for label, table in tables.items()}))
    for label, table in tables.items():
        apart, alike = (int((table["clusters"] == c).sum()) for c in (table["rse_m"], 1))
        tell(f"{label}: mean RSE {table['RSE'].mean():.3f} of at most {log(table['rse_m'].max()):.3f} nats; of "
              f"{len(table):,} prompts {apart:,} at the most (no two alike), {alike:,} at zero, "
              f"{table['RSE'].isna().sum():,} without RSE; {table['asymmetric_share'].mean():.1%} of the pairs judged "
              "differently in their two orders")
    options.answer = pd.concat([t.assign(run=label) for label, t in tables.items()])
    write_csv(options.answer, options.csv)
    if options.panel:
        _judge_panel(options, runs, judged, spec)
    return OK


_JUDGE_SHOWN = ["prompt_uid", "RSE", "RSE_cs", "rse_m", "clusters", "asymmetric_share", "failed"]


def _judge_spec(options: argparse.Namespace) -> dict[str, Any]:
    """The judge that the options describe, as a study file would have it."""
    names = ("threshold", "embedder", "base_url", "model", "api_key_env", "max_tokens", "concurrency",
             "requests_per_minute", "timeout", "both_orders", "m", "seed", "think", "max_failed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return {"kind": options.judge, **given, "progress": not options.quiet}


def _judge_files(options: argparse.Namespace) -> None:
    if bool(options.panel) != bool(options.out):
        raise UserError("--panel and --out belong together: the panel to read, and where to write it with its RSE.")
    if options.panel and not place(options.panel).is_file():
        raise UserError(f"There is no panel file {options.panel}. Write one with `canopy-stats panel RUN...`.")


def _judge_panel(options: argparse.Namespace, runs: Sequence[Run], judged: Sequence[pd.DataFrame],
                 spec: dict[str, Any]) -> None:
    """The panel once more with the columns RSE, RSE_cs and rse_m, and with how they were made."""
    from canopy_stats.metrics.judge import join_rse
    from canopy_stats.panels import read_panel, write_panel

    panel = read_panel(options.panel)
    made = {**panel.attrs.get("provenance", {}), "judge": {**spec, "command": options.command_line}}
    write_panel(join_rse(panel, runs, judged), options.out, made)
    written(options.out)


def _judge_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    add = command.add_argument
    add("--judge", required=True, choices=["embedding", "openai"], help="who says whether two texts mean the same")
    add("--m", type=int, help="rollouts of each prompt that are compared, m(m-1)/2 pairs (default 20, or all)")
    add("--seed", type=whole_number(0), help="which rollouts are chosen")
    add("--think", choices=["keep", "drop"], help="what becomes of a <think> part (default keep)")
    add("--max-failed", type=float, metavar="SHARE", help="verdicts that may fail before nothing is scored (0.05)")
    add("--panel", metavar="FILE", help="add the result to this panel ...")
    add("--out", metavar="FILE", help="... and write it here")
    add("--quiet", action="store_true", help="do not tell the number of requests, nor progress")
    local = command.add_argument_group("--judge embedding").add_argument
    local("--threshold", type=float, metavar="COSINE", help="the same from this cosine on, such as 0.6")
    local("--embedder", metavar="NAME", help="as in `embed` (default: the embeddings that the run keeps)")
    remote = command.add_argument_group("--judge openai (any OpenAI-compatible chat endpoint)").add_argument
    remote("--base-url", metavar="URL", help="such as https://host/v1; /chat/completions is added")
    remote("--model", help="the judging model's name there")
    remote("--api-key-env", metavar="VARIABLE", help="name of the environment variable that holds the API key")
    remote("--max-tokens", type=int, help="room for a verdict (16; a reasoning model needs far more)")
    remote("--concurrency", type=int, help="requests under way at a time (8)")
    remote("--requests-per-minute", type=float, metavar="R", help="limit on all requests together (none)")
    remote("--timeout", type=float, metavar="S", help="seconds for one request (60)")
    remote("--both-orders", action="store_true", default=None,
           help="ask every pair in both orders, not only those that the first order calls the same")
    csv_option(command)
    json_option(command)


JUDGE = Command(
    "judge", reads="runs", gives="each prompt's semantic entropy, by verdicts on who means the same",
    summary="semantic entropy from verdicts on who means the same", run=_judge, add_options=_judge_options,
    teaching="""
    Compare m rollouts of each prompt pair by pair, join those that mean the same into clusters, and print the
    entropy of the clusters' shares: RSE, between 0 (all say one thing) and log m (each says another).

    A pair counts as the same only if it is judged so in both orders; an endpoint is asked for the second order only
    where the first says so, and first of all about a text and itself. RSE_cs corrects for clusters that m rollouts
    did not show (Chao-Shen). asymmetric_share tells how often the order changed the verdict: a judge that
    prefers a position is a bad judge. Where most prompts are at log m or at zero, RSE tells little: compare more
    rollouts, or judge more coarsely or finely. With embeddings the threshold decides: try several. Every verdict
    of an endpoint is kept at once; the same command goes on.

    Examples:
      canopy-stats judge runs/alder-stories --judge embedding --threshold 0.6 --embedder minilm
      canopy-stats judge runs/base runs/tuned --judge openai --base-url https://host/v1 --model NAME \\
          --api-key-env HOST_API_KEY --requests-per-minute 300 --panel panel.parquet --out panel-rse.parquet
    """)


def _rho(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats.metrics.rho import rho

    runs = open_runs(options.runs)
    found = {label_of(run): rho(run, n_boot=options.replicates, seed=options.seed, resample=options.resample,
                                origin=options.origin) for run in runs}
    for label, result in found.items():
        tell(f"{label}: " + " ".join(["correlation of length and entropy rate", *result.notes]))
        show(result.table)
        show(result.origins)
        tell()
    tables = [result.table.assign(task=run.config.task, model_name=run.config.family, model_variant=run.config.variant)
              for run, result in zip(runs, found.values(), strict=True)]
    whole = pd.concat(tables, ignore_index=True)
    options.answer = whole
    write_csv(whole, options.csv)
    if options.figure:
        from canopy_stats.report.figures import rho_figure, save

        written(*save(rho_figure(whole), options.figure))
    return OK


def _rho_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    add = command.add_argument
    add("--replicates", type=whole_number(0), default=400, metavar="B",
        help="bootstrap replicates; 0: no intervals (default 400)")
    add("--seed", type=whole_number(0), default=0, help="of the bootstrap")
    add("--resample", choices=["nested", "prompts", "rollouts"], default="nested",
        help="what the bootstrap draws anew: prompts and their rollouts (default), prompts, or rollouts alone")
    add("--origin", choices=["auto", "start", "end"], default="auto",
        help="where positions are counted from: whichever side predicts rollouts not seen better (default), the first "
             "token, or the last")
    add("--figure", metavar="STEM", help="also draw STEM.svg and STEM.png")
    csv_option(command)
    json_option(command)


RHO = Command(
    "rho", reads="runs", gives="do long rollouts have other rates, beyond what position explains?",
    summary="length and entropy rate, beyond position", run=_rho, add_options=_rho_options,
    teaching="""
    Correlate length and entropy rate over the rollouts of each prompt, and take away what position alone explains:
    where entropy falls along the text, longer rollouts have lower rates whatever they say.

      raw       Pearson, Spearman and Kendall, pooled over prompts
      position  the part that a position profile, fitted to each prompt's other rollouts, brings about
      excess    raw - position
      adjusted  the correlation of length with the rate that is left: compare this one between models

    The second table has the error, on rollouts left out, of profiles counted from the start, from the end, in shares of
    the length, from both sides, and of none. Where the share predicts best, or the two sides disagree about the sign,
    only the raw coefficients are given; --origin start or end gives all.

    Example:
      canopy-stats rho runs/alder-* --csv rho.csv --figure rho
    """)


COMMANDS = (EMBED, MEASURE, JUDGE, RHO)
