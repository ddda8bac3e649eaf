"""Commands that take what was drawn elsewhere: import, audit."""

from __future__ import annotations

import argparse
from typing import Any

from canopy_stats.cli.command import FAILED, OK, Command
from canopy_stats.cli.options import json_option, plain_name, whole_number
from canopy_stats.cli.printing import paragraph, show, tell, write_csv
from canopy_stats.cli.runs import law_options, model_options, run_summary, run_table, stated_law
from canopy_stats.schema import SamplingPolicy

_FORMATS = ("auto", "jsonl", "openai", "vllm", "inspect", "lm-eval")


def _log_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("source", nargs="+", metavar="FILE", help="JSONL, Parquet, an inspect log, lm-eval samples; see --format")
    add("--format", choices=_FORMATS, default="auto", help="default: told by the file's name and first row")
    add("--map", action="append", default=[], metavar="FIELD=NAME",
        help="the name that a field has here, such as completion=answer or prompt=meta.question; may be given several "
             "times")


def _model_arguments(options: argparse.Namespace) -> dict[str, Any]:
    return {"tokenizer": options.tokenizer, "chat": options.chat, "system": options.system,
            "enable_thinking": options.thinking, "template_kwargs": options.template_kwargs,
            "adapter": options.adapter, "revision": options.revision, "dtype": options.dtype, "device": options.device}


def _law(options: argparse.Namespace) -> SamplingPolicy | None:
    """The law that was stated; None where none was, so that it is assumed and said."""
    law = stated_law(options)
    return None if law == SamplingPolicy() else law


def _import(options: argparse.Namespace) -> int:
    from canopy_stats.doors.importing import import_rollouts
    from canopy_stats.doors.sources import mapping

    run = import_rollouts(
        options.source, options.out, family=options.family, variant=options.variant, task=options.task,
        model=options.model, policy=_law(options), format=options.format, fields=mapping(options.map),
        batch_size=options.batch_size, vocabulary=options.vocabulary, progress=not options.quiet,
        after_end="cut" if options.cut_after_end else "refuse", **_model_arguments(options))
    tell(run_summary(run))
    tell({"exact": "every term is there", "interval": "entropies are bounds", "missing": "no entropies"}[
        run.config.terms] + f"; {run.prompts_held:,} prompts, {min(run.counts)} to {max(run.counts)} rollouts of each")
    options.answer = run_table(run)
    return OK


def _import_options(command: argparse.ArgumentParser) -> None:
    _log_options(command)
    add = command.add_argument
    add("--out", required=True, metavar="FOLDER", help="where the run is stored; an interrupted import goes on")
    add("--family", required=True, type=plain_name, help="name of the model family: pairs base with tuned")
    add("--variant", required=True, type=plain_name, help="which checkpoint of the family: base, instruct, ...")
    add("--task", required=True, type=plain_name, help="what the prompts ask, such as stories")
    add("--model", help="hub name, folder, or GGUF file of the model that drew them: gives every term")
    add("--vocabulary", type=whole_number(2), metavar="V", help="size of the model's vocabulary, for bounds without it")
    add("--cut-after-end", action="store_true", help="cut completions that go on after their end token (padding)")
    law_options(command)
    model_options(command)
    add("--quiet", action="store_true", help="no progress on stderr")
    json_option(command)


IMPORT = Command(
    "import", reads="others' logs", gives="a run folder, like that of generate",
    summary="take rollouts that were drawn elsewhere", run=_import, add_options=_import_options,
    teaching="""
    Completions and their prompts become a run, which check, measure, rho, judge and panel take like any other.

    With --model every entropy term is computed by running the model over the given tokens, under the law that you
    state; `check` then says whether the completions can come from that law, and which other they look like. Without
    it, logged log-probabilities of the likeliest tokens bound each entropy. Without those, lengths and texts remain.
    What had to be assumed is said.

    A JSONL row holds a prompt and its completions, or one of them, as texts or token ids:
      {"prompt": "Once upon", "completions": ["a time ...", "a hill ..."]}
      {"prompt": "Once upon", "token_ids": [17, 4, 2], "logprobs": [-1.2, -0.1, -0.3], "finish_reason": "stop"}

    Examples:
      canopy-stats import answers.jsonl --map completion=answer --model data/models/alder/instruct --temperature 0.7 \\
          --max-new-tokens 160 --family alder --variant instruct --task stories --out runs/imported
      canopy-stats import logs/run.eval --family gpt --variant chat --task arc --vocabulary 200019 --out runs/arc
    """)


def _audit(options: argparse.Namespace) -> int:
    from canopy_stats.doors.audit import audit
    from canopy_stats.doors.sources import mapping

    report = audit(options.source, options.model, policy=_law(options), format=options.format,
                   fields=mapping(options.map), variant=options.variant, max_tokens=options.max_tokens,
                   others=mapping(options.other), **_model_arguments(options))
    options.answer = table = report.to_frame()
    for column in report.columns:
        tell(paragraph(column.verdict))
        tell()
        show(table[table["column"] == column.name].head(options.show))
        tell()
    write_csv(table, options.csv)
    return OK if report.ok else FAILED


def _audit_options(command: argparse.ArgumentParser) -> None:
    _log_options(command)
    add = command.add_argument
    add("--model", required=True, help="hub name, folder, or GGUF file of the model")
    add("--variant", default="base", type=plain_name,
        help="with a name other than base, prompts go through the chat template")
    add("--other", action="append", default=[], metavar="NAME=MODEL", help="another checkpoint to try")
    add("--max-tokens", type=whole_number(1), default=1024, metavar="T", help="tokens to compare (default 1024)")
    add("--show", type=whole_number(1), default=6, metavar="ROWS", help="readings to print of each column (default 6)")
    add("--csv", metavar="FILE", help="write every reading with its distance to this file")
    law_options(command)
    model_options(command)
    json_option(command)


AUDIT = Command(
    "audit", reads="a log", gives="are these numbers what they are called?",
    summary="are logged entropies and log-probabilities what they are called?", run=_audit,
    add_options=_audit_options,
    teaching="""
    Compare logged numbers called entropy or logprobs with the model, and name what they are: surprisals, bits, means
    instead of sums, another temperature or filter, a doubled BOS, a missing template, numbers one step off, another
    checkpoint (--other). A list holds a number for each token; a single number stands for the completion's sum.

    Exit code 0: they are what they are called; 1: something is not.

    Example:
      canopy-stats audit log.jsonl --map entropy=ent --model data/models/alder/instruct --variant instruct \\
          --other base=data/models/alder/base
    """)


COMMANDS = (IMPORT, AUDIT)
