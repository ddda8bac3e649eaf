"""What analysis/fuzz.py feeds: each target makes one mutant of a valid input and gives it to what reads such inputs."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import runpy
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fuzz_mutants import STRANGE, TEXTS, mutated, torn  # type: ignore[import-not-found]  # beside this file

import canopy_stats as cs
from canopy_stats import files
from canopy_stats.cli.parser import COMMANDS, build_parser
from canopy_stats.generation.prompt_file import read_prompts
from canopy_stats.metrics.judging.reply import NoVerdict, Refused, Reply, Transient, read_reply
from canopy_stats.metrics.judging.verdict_file import VerdictFile
from canopy_stats.mixed import load_fit
from canopy_stats.panels import read_panel, validate
from canopy_stats.schema import UserError
from canopy_stats.store.identity import run_id
from canopy_stats.study import plan, read_study, stamps

TESTS = Path(__file__).resolve().parents[1] / "tests"
STUDY: dict[str, Any] = {
    "title": "t", "families": [{"name": "f", "base": "org/a", "tuned": {"model": "org/b", "chat": True}}],
    "tasks": {"walk": "walk.jsonl"}, "law": {"temperature": 0.5, "top_k": 3, "max_new_tokens": 9}, "rollouts": 3,
    "embedders": ["tfidf", {"model": "org/e", "prompt": "p"}], "judge": {"kind": "embedding", "threshold": 0.5},
    "ablations": [{"name": "k", "law": {"top_k": 2}}]}


class Past(Exception):
    """Refused after the parser had let it through."""


@contextlib.contextmanager
def past_the_parser() -> Any:
    """What is refused here was read before."""
    try:
        yield
    except UserError as error:
        raise Past from error


# --- study files, prompt files, stamps, panels ------------------------------------------------------------------


def study(folder: Path, rng: random.Random) -> None:
    """A study file, and its plan."""
    data = yaml.safe_dump(mutated(STUDY, rng)).encode("utf-8", "replace")
    (folder / "s.yaml").write_bytes(data if rng.random() < 0.9 else torn(data, rng))
    made = read_study(folder / "s.yaml").study
    with past_the_parser():
        made.described()
        plan.told(made, folder / "nowhere")


def prompts(folder: Path, rng: random.Random) -> None:
    """A prompt file of a mutated line between good ones."""
    prompt = rng.choice(["x", [1, 2], [{"role": "user", "content": "x"}]])
    line = json.dumps(mutated({"id": "a", "prompt": prompt}, rng)).encode()
    line = line if rng.random() < 0.8 else torn(line, rng)
    (folder / "p.jsonl").write_bytes(b'{"prompt": "good"}\n' + line + b"\n")
    read_prompts(folder / "p.jsonl")


def stamp(folder: Path, rng: random.Random) -> None:
    """A stage's stamp that somebody else wrote."""
    note = mutated({"key": "k", "made_from": {"a": 1}, "files": {"out.txt": "0" * 64, "b/c": "1"}}, rng)
    files.make_folder(folder / "stages")
    (folder / "stages" / "s.json").write_text(json.dumps(note))
    (folder / "out.txt").write_text("x")
    with past_the_parser():
        stamps.state(folder, "s", {"a": 1})
        stamps.staged(folder, "s", {"a": 2}, lambda: [folder / "out.txt"])


@cache
def _some_rows() -> Any:
    rows = cs.load_demo_panel().head(20).astype("object")
    rows.attrs = {}  # every step would copy them
    return rows


def panel(folder: Path, rng: random.Random) -> None:
    """A panel with some cells replaced, sometimes written as a CSV before."""
    frame = _some_rows().copy()
    strange = rng.random() < 0.5
    for _ in range(rng.randint(1, 3)):
        row, column = rng.randrange(20), rng.randrange(frame.shape[1])
        value = frame.iat[row, column]
        frame.iat[row, column] = rng.choice(STRANGE[:17]) if strange else mutated(value, rng, 0.0)
    if rng.random() < 0.3:
        (folder / "p.csv").write_bytes(torn(frame.to_csv(index=False).encode("utf-8", "replace"), rng))
        frame = read_panel(folder / "p.csv")
    with past_the_parser():
        validate(frame)


# --- runs ---------------------------------------------------------------------------------------------------------


@cache
def _fake() -> dict[str, Any]:
    return runpy.run_path(str(TESTS / "fake_engine.py"))


def _run(folder: Path) -> Path:
    """A copy of a small run, which may be spoilt."""
    whole, own = folder / "whole-run", folder / "run"
    if not whole.exists():
        asked = _fake()["make_prompts"](3)
        _fake()["write_run"](whole, asked, _fake()["make_config"](asked, n_rollouts=4))
        cs.open_run(whole)
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(whole, own)
    return own


def _read(run: Path) -> None:
    """Whatever reads a run."""
    opened = cs.open_run(run, allow_partial=True)
    with past_the_parser():
        opened.rollouts(), opened.steps(), opened.complete, opened.content_hash, list(opened.parts())
        cs.open_run(run)
        cs.measure(opened)


def manifest(folder: Path, rng: random.Random) -> None:
    """A manifest, mostly with the run_id that its configuration has."""
    run = _run(folder)
    changed = mutated(json.loads((run / "manifest.json").read_text()), rng)
    if rng.random() < 0.7:
        with contextlib.suppress(Exception):
            changed["run_id"] = run_id(changed["config"])
    data = json.dumps(changed).encode()
    (run / "manifest.json").write_bytes(data if rng.random() < 0.9 else torn(data, rng))
    _read(run)


def shard_log(folder: Path, rng: random.Random) -> None:
    """A shard's line, or the bytes of the log, of the prompts, or of the note of what was verified."""
    run = _run(folder)
    path = run / rng.choice(["shards.jsonl"] * 4 + ["prompts.jsonl", ".verified.json"])
    data = path.read_bytes() if path.exists() else b'{"files": {}}'
    if path.name == "shards.jsonl" and rng.random() < 0.8:
        data = json.dumps(mutated(json.loads(data.splitlines()[0]), rng)).encode() + b"\n"
    else:
        data = torn(data, rng)
    path.write_bytes(data)
    _read(run)


def shard(folder: Path, rng: random.Random) -> None:
    """A shard's file with columns of other values or kinds, or other bytes, vouched for by the log."""
    run = _run(folder)
    entry = json.loads((run / "shards.jsonl").read_text().splitlines()[0])
    kind = rng.choice(["rollouts", "steps"])
    path = run / entry[kind]["path"]
    if rng.random() < 0.8:
        pq.write_table(_other_table(pq.read_table(path), rng), path)
    else:
        path.write_bytes(torn(path.read_bytes(), rng))
    entry[kind]["sha256"] = files.file_sha256(path)
    (run / "shards.jsonl").write_text(json.dumps(entry) + "\n")
    _read(run)


def _other_table(table: pa.Table, rng: random.Random) -> pa.Table:
    at = rng.randrange(table.num_columns)
    name, action = table.column_names[at], rng.randrange(4)
    if action == 0:
        return table.drop_columns([name])
    if action == 1:
        return table.set_column(at, name, pa.nulls(table.num_rows))
    if action == 2:
        return table.slice(0, rng.randrange(table.num_rows))
    return table.set_column(at, name, pa.array([str(v) for v in table[name].to_pylist()]))


# --- a judge, and what it said before -----------------------------------------------------------------------------


_REPLY = {"id": "1", "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "SAME"}}]}
_HEADERS = [None, "3", "nan", "-inf", "1e400", "Wed, 21 Oct 2099 07:28:00 GMT",
            "Mon, 1 Jan " + "9" * 20 + " 00:00:00 GMT", "Mon, 1 Jan 0001 00:00:00 +2359", "\ud800", "9" * 5000]


def reply(folder: Path, rng: random.Random) -> None:
    """What an endpoint sends; its content may be a word or deeply nested."""
    said = mutated(_REPLY, rng)
    if rng.random() < 0.2 and isinstance(said, dict):
        said["choices"] = rng.choice(STRANGE)
    data = json.dumps(said).encode()
    if rng.random() < 0.1:
        depth = rng.randrange(100, 1200)
        data = data.replace(b'"SAME"', b"[" * depth + b"]" * depth)
    status = rng.choice([200] * 6 + [401, 429, 500, 302, 400])
    data = data if rng.random() < 0.7 else torn(data, rng)
    try:
        read_reply(Reply(status, data, rng.choice(_HEADERS)), "sk-" + "k" * 20)
    except NoVerdict as error:
        raise Past from error
    except (Transient, Refused) as error:
        raise UserError("no reply") from error


def verdicts(folder: Path, rng: random.Random) -> None:
    """A file of kept verdicts: what is none is counted and left out."""
    lines = [json.dumps(mutated({"key": "a" * 64, "same": True}, rng)).encode() for _ in range(3)]
    data = b"\n".join(lines)
    (folder / "v.jsonl").write_bytes(data if rng.random() < 0.5 else torn(data, rng))
    VerdictFile(folder / "v.jsonl")


# --- other people's logs, scores and fits --------------------------------------------------------------------------


_LOGS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "p", "completions": ["c d", "e"], "token_ids": [[3, 4], [5]],
     "finish_reason": ["stop", "length"]},
    {"prompt_id": "b", "prompt": [{"role": "user", "content": "p"}], "completion": "c", "token_ids": [1, 2],
     "logprobs": [-0.5, -1.5], "finish_reason": "stop"},
    {"request": {"prompt": "p"}, "response": {"id": "r", "choices": [{
        "index": 0, "text": "c d", "finish_reason": "length",
        "logprobs": {"tokens": ["c", " d"], "token_logprobs": [-0.1, -2.5]}}]}},
    {"messages": [{"role": "user", "content": "p"}], "choices": [{
        "message": {"content": "c"}, "finish_reason": "stop", "logprobs": {"content": [
            {"token": "c", "logprob": -0.1, "top_logprobs": [{"token": "c", "logprob": -0.1}]}]}}]},
    {"doc_id": 0, "doc": {"q": "x"}, "target": "y", "arguments": [["p", {"until": []}]], "resps": [["c", "d"]],
     "filtered_resps": ["c"], "acc": 1.0},
    {"prompt": "p", "prompt_token_ids": [7, 8], "outputs": [{"text": "c", "token_ids": [1], "finish_reason": "length",
                                                             "logprobs": [{"1": {"logprob": -0.5}}]}]}]


def log(folder: Path, rng: random.Random) -> None:
    """A log of completions with a mutated line."""
    row = rng.choice(_LOGS)
    line = json.dumps(mutated(row, rng)).encode()
    lines = [json.dumps(row).encode()] * rng.randrange(2) + [line if rng.random() < 0.9 else torn(line, rng)]
    (folder / "log.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    shutil.rmtree(folder / "imported", ignore_errors=True)
    cs.import_rollouts(folder / "log.jsonl", folder / "imported", family="f", variant="v", task="t", progress=False,
                       vocabulary=rng.choice([1000, 1000, 1000, None]))


def scores(folder: Path, rng: random.Random) -> None:
    """A sample file of an evaluation."""
    sample = {"doc_id": 0, "doc": {"q": "x"}, "target": "y", "resps": [["c"]], "filtered_resps": ["c"],
              "filter": "none", "metrics": ["acc"], "doc_hash": "0", "acc": 0.5}
    data = b"\n".join(json.dumps(mutated(sample | {"doc_id": i}, rng)).encode() for i in range(2))
    (folder / "samples_t.jsonl").write_bytes(data if rng.random() < 0.8 else torn(data, rng))
    cs.read_lm_eval(folder / "samples_t.jsonl")


def fit_file(folder: Path, rng: random.Random) -> None:
    """A stored fit with other words or bytes."""
    if not (folder / "fit.npz").exists():
        table = {"y": [1.0, 2.0, 2.5, 4.0, 4.5, 6.5], "x": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "g": list("aaabbb")}
        cs.lmm("y ~ x + (1|g)", table).save(folder / "fit")
    with np.load(folder / "fit.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["meta"] = np.array(json.dumps(mutated(json.loads(str(arrays["meta"])), rng)))
    if rng.random() < 0.3:
        arrays.pop(rng.choice(list(arrays)))
    np.savez(folder / "other.npz", **arrays)
    if rng.random() < 0.2:
        (folder / "other.npz").write_bytes(torn((folder / "other.npz").read_bytes(), rng))
    load_fit(folder / "other.npz")


# --- the command line ---------------------------------------------------------------------------------------------


_RUNNING = {"embed": 3, "measure": 6, "panel": 4, "rho": 2, "plan": 3, "status": 3, "generate": 4, "check": 3}
"""Commands that are tried, and how often; the others fit for seconds."""


def options(folder: Path, rng: random.Random) -> None:
    """Words of a command line; the command runs where they can be read."""
    name = rng.choice([command for command, times in _RUNNING.items() for _ in range(times)])
    words = [name, *_places(name, folder, rng), *_more(name, folder, rng)]
    try:
        given = build_parser().parse_args(words)
    except SystemExit as error:
        raise UserError("not read") from error
    given.command_line = " ".join(words)
    with past_the_parser():
        given.run(given)


def _places(name: str, folder: Path, rng: random.Random) -> list[str]:
    """What the command reads, and where it writes."""
    run = str(_run(folder)) if rng.random() < 0.9 else rng.choice(TEXTS)
    out = str(folder / "made" / rng.choice(["a.parquet", "a.csv", "b"]))
    (folder / "walk.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "good.yaml").write_text(yaml.safe_dump(STUDY))
    if name == "generate":
        return [str(folder / "no-model"), "--prompts", str(folder / "walk.jsonl"), "--out", out, "--family", "f",
                "--variant", "base", "--task", "t"]
    if name in ("plan", "status"):
        return [str(folder / "good.yaml")]
    return [run, *(["--embedder", "tfidf"] if name in ("panel", "embed") else []),
            *(["--out", out] if name == "panel" else []), *(["--replicates", "3"] if name == "rho" else [])]


def _more(name: str, folder: Path, rng: random.Random) -> list[str]:
    """One or two options with values, some of them fitting."""
    found: list[str] = []
    for action in rng.sample(_actions(name), rng.randint(1, 2)):
        if action.dest in ("help", "replicates", "figure"):  # a figure takes seconds
            continue
        found.append(action.option_strings[0])
        if action.nargs != 0:
            choices = list(action.choices or ()) if rng.random() < 0.6 else []
            found.append(str(rng.choice(choices or TEXTS)))
    places = {"--csv": "made/t.csv", "--figure": "made/f", "--out": "made/o.csv"}
    keep = rng.random() < 0.7
    return [str(folder / places[before]) if keep and before in places else word
            for before, word in zip(["", *found], found, strict=False)]


@cache
def _actions(name: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    COMMANDS[name].add_options(parser)
    return [action for action in parser._actions if action.option_strings]


TARGETS: dict[str, Callable[[Path, random.Random], None]] = {one.__name__: one for one in (
    study, prompts, stamp, panel, manifest, shard_log, shard, reply, verdicts, log, scores, fit_file, options)}
