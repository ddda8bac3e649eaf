"""Commands that draw runs and check them: generate, check."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from canopy_stats.cli.command import FAILED, OK, Command
from canopy_stats.cli.inputs import open_runs
from canopy_stats.cli.options import (
    batch_size,
    chat_format,
    device,
    json_object,
    json_option,
    plain_name,
    runs_argument,
    whole_number,
    whole_numbers,
)
from canopy_stats.cli.printing import label_of, marked, tell, written
from canopy_stats.schema import SamplingPolicy

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run


def _generate(options: argparse.Namespace) -> int:
    from canopy_stats.runs import generate

    policy = stated_law(options)
    run = generate(
        options.model, options.prompts, options.out, family=options.family, variant=options.variant, task=options.task,
        n_rollouts=options.rollouts, policy=policy, seed=options.seed, engine=options.engine,
        engine_options=options.engine_options, tokenizer=options.tokenizer, chat=options.chat, system=options.system,
        enable_thinking=options.thinking, template_kwargs=options.template_kwargs,
        adapter=options.adapter, revision=options.revision, dtype=options.dtype, device=options.device,
        batch_size=options.batch_size, drift_tokens=options.drift_tokens, strict=options.strict,
        progress=not options.quiet)
    tell(run_summary(run))
    options.answer = run_table(run)
    return OK


def stated_law(options: argparse.Namespace) -> SamplingPolicy:
    """The law of :func:`law_options`."""
    return SamplingPolicy(
        options.temperature, options.top_k, options.top_p, options.min_p, options.max_new_tokens,
        stop_token_ids=options.stop_token_ids, stop_strings=options.stop_string,
        repetition_penalty=options.repetition_penalty, min_new_tokens=options.min_new_tokens,
        suppress_tokens=options.suppress_tokens)


def run_table(run: Run) -> pd.DataFrame:
    """What :func:`run_summary` says as one row."""
    import pandas as pd

    config, redrawn = run.config, (run.manifest["drift"] or {}).get("redrawn", [])
    return pd.DataFrame([{
        "path": str(run.path), "family": config.family, "variant": config.variant, "task": config.task,
        "law": config.policy.label(), "terms": config.terms, "prompts": run.prompts_held,
        "rollouts": sum(s["n_rollouts"] for s in run.shards), "tokens": sum(s["n_tokens"] for s in run.shards),
        "content": run.content_hash, "redrawn_tokens": sum(part["tokens"] for part in redrawn),
        "redrawn_flips": sum(part["flips"] for part in redrawn)}])


def run_summary(run: Run) -> str:
    tokens = sum(s["n_tokens"] for s in run.shards)
    rollouts = sum(s["n_rollouts"] for s in run.shards)
    lines = [f"{run.path}: {rollouts:,} rollouts, {tokens:,} tokens, {run.config.policy.label()}",
             f"content {run.content_hash[:16]}"]
    for again in (run.manifest["drift"] or {}).get("redrawn", []):
        lines.append(f"drawn again at batch size {again['batch_size']}: {again['flips']} flips in {again['tokens']:,} "
                     f"tokens, entropy within {again['entropy_difference']:.1e} nats")
    return "\n".join(lines)


def _generate_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", help="hub name, folder, or GGUF file of a causal language model")
    add("--prompts", required=True, metavar="FILE", help='JSON lines with a "prompt" key (text or chat messages)')
    add("--out", required=True, metavar="FOLDER", help="where the run is stored; a stored run is resumed")
    add("--family", required=True, type=plain_name,
        help="name of the model family, such as Qwen3-0.6B: pairs base with tuned")
    add("--variant", required=True, type=plain_name, help="which checkpoint of the family: base, instruct, ...")
    add("--task", required=True, type=plain_name, help="what the prompts ask, such as stories")
    add("--rollouts", type=int, default=100, metavar="M", help="rollouts of each prompt, at least 2 (default 100)")
    add("--seed", type=whole_number(0), default=0,
        help="a rollout depends on seed, family, variant, prompt and index alone")
    law_options(command)
    model_options(command)
    add("--engine", choices=["torch", "vllm"], default="torch",
        help="what draws: transformers (default), or vLLM with the same tokens at a higher rate (docs/engines.md)")
    add("--engine-options", type=json_object, metavar="JSON",
        help="""for vLLM's EngineArgs, such as '{"tensor_parallel_size": 2}'; of torch '{"mix_shards": true}'""")
    add("--drift-tokens", type=whole_number(0), default=512, metavar="T",
        help="tokens drawn again at other batch sizes in the end, to measure flips; 0 skips it (default 512)")
    add("--strict", action="store_true",
        help="refuse to go on with a run begun on other hardware, threads, versions, batch size or code")
    add("--quiet", action="store_true", help="no progress on stderr")
    json_option(command)


def law_options(command: argparse.ArgumentParser) -> None:
    """The sampling law."""
    add = command.add_argument_group("the sampling law (in this order; ties are kept)").add_argument
    add("--repetition-penalty", type=float, metavar="R",
        help="divide positive logits of tokens that prompt or rollout hold by R, multiply negative ones")
    add("--min-new-tokens", type=int, default=0, metavar="N", help="no end token before N tokens (default 0)")
    add("--suppress-tokens", type=whole_numbers, default=[], metavar="IDS", help="token ids never drawn, as 5,17")
    add("--temperature", type=float, default=1.0, help="divides the logits (default 1)")
    add("--top-k", type=int, metavar="K", help="keep the K most likely tokens")
    add("--top-p", type=float, metavar="P", help="keep the most likely tokens whose mass reaches P")
    add("--min-p", type=float, metavar="P", help="keep tokens at least P times as likely as the most likely one")
    add("--max-new-tokens", type=int, default=4000, metavar="N", help="length cap, part of the law (default 4000)")
    add("--stop-token-ids", type=whole_numbers, default=[], metavar="IDS",
        help="token ids that end a rollout beside the model's own end tokens, as 5,17")
    add("--stop-string", action="append", default=[], metavar="TEXT",
        help="end a rollout at the token that completes this text; may be given several times")


def model_options(command: argparse.ArgumentParser) -> None:
    """What is loaded, and how prompts are put to it."""
    add = command.add_argument_group("the model").add_argument
    add("--tokenizer", help="name or folder, where it is not the model's own")
    add("--chat", nargs="?", const=True, type=chat_format, metavar="rendered-text",
        help="apply the tokenizer's chat template (default: for every variant but base); with 'rendered-text' its text "
             "is tokenised once more, so that Llama and Gemma get a second BOS, as the paper ran it")
    add("--no-chat", dest="chat", action="store_const", const=False, help="prompts are plain text")
    add("--system", metavar="TEXT", help="system prompt of the chat template")
    add("--thinking", action=argparse.BooleanOptionalAction, default=None,
        help="pass enable_thinking to the chat template")
    add("--template-kwargs", type=json_object, default={}, metavar="JSON",
        help="""arguments of the chat template, such as '{"reasoning_effort": "low"}'""")
    add("--adapter", metavar="FOLDER", help="LoRA adapter (peft)")
    add("--revision", help="commit or tag on the hub")
    add("--dtype", default="auto", help="float32, bfloat16, float16, or auto (default)")
    add("--device", default="auto", type=device, help="cpu, cuda, cuda:1, or auto (default)")
    add("--batch-size", type=batch_size, default="auto", metavar="B",
        help="rollouts decoded at once; halved when memory runs out (default auto)")


GENERATE = Command(
    "generate", reads="a model, prompts", gives="a run folder: rollouts with their exact entropy terms",
    summary="draw rollouts with their exact entropy terms", run=_generate, add_options=_generate_options,
    teaching="""
    Draw M rollouts of each prompt and store, for each token, the entropy of the distribution it was drawn from,
    its log-probability and the chance of ending there.

    Interrupted? Give the same command again: what is stored stays, and the result is that of an uninterrupted
    run. A changed setting is refused with its name. The model's own generation_config never changes the law.

    Example:
      canopy-stats generate data/models/alder/instruct --prompts data/prompts/stories.jsonl --task stories \\
          --family alder --variant instruct --rollouts 24 --max-new-tokens 160 --out runs/alder-stories

    The last lines tell the content hash (equal for equal content) and how many tokens flipped when some rollouts
    were drawn again at other batch sizes: rounding depends on the batch, and a few in a million is usual.
    """)


def _check(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats.checks import check

    reports = {}
    for run in open_runs(options.runs):
        reports[label_of(run)] = report = check(run, model=options.model, n_sample=options.sample, seed=options.seed)
        marked(report)
        tell()
    options.answer = pd.concat([r.to_frame().assign(run=label) for label, r in reports.items()])
    return OK if all(r.ok for r in reports.values()) else FAILED


def _check_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    add = command.add_argument
    add("--model", help="the model, where it no longer lies where the run found it")
    add("--sample", type=int, default=32, metavar="M", help="rollouts to score and draw again (default 32)")
    add("--seed", type=whole_number(0), default=0, help="which rollouts are sampled")
    json_option(command)


CHECK = Command(
    "check", reads="a run", gives="was it drawn from the law it claims?",
    summary="was a run drawn from the law it claims?", run=_check, add_options=_check_options,
    teaching="""
    Two sums have mean zero if the tokens were drawn from the law that the stored terms describe: surprisal minus
    entropy, and stops minus the chances of stopping. Their z-scores should lie within 4. Then some prompts are
    built again from their source, their rollouts scored through plain transformers, and drawn again with their
    own random numbers. A wrong temperature, filter, chat template or BOS token shows.

    Exit code 0: all agrees; 1: something does not.

    Example:
      canopy-stats check runs/alder-stories --sample 64
    """)


def _export(options: argparse.Namespace) -> int:
    from canopy_stats.store import export_runs

    written(export_runs(open_runs(options.runs), options.out, license=options.license, title=options.title))
    return OK


def _export_options(command: argparse.ArgumentParser) -> None:
    runs_argument(command)
    add = command.add_argument
    add("--out", required=True, metavar="FOLDER", help="a new folder for the data set")
    add("--license", metavar="NAME", help="the hub's name of a licence, such as cc-by-4.0 (default: none is stated)")
    add("--title", help="title of the data card (default: families, variants and tasks)")


EXPORT = Command(
    "export", reads="runs", gives="a Hugging Face data set folder with its card",
    summary="runs as a Hugging Face data set", run=_export, add_options=_export_options,
    teaching="""
    Write runs as a folder that `datasets.load_dataset` reads without a network: Parquet files of rollouts, steps and
    prompts, a data card with every column, the law and the provenance, and Croissant metadata. No path, key or name
    of the machine enters; the texts are as the models wrote them.

    Example:
      canopy-stats export runs/alder-stories --out hub/alder-stories --license cc-by-4.0
    """)


COMMANDS = (GENERATE, CHECK, EXPORT)
