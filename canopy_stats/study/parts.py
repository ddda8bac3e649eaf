"""A study and its ablations as parts: each with its settings, its runs and its panel, and how those are made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import __version__, files
from canopy_stats.schema import UserError
from canopy_stats.study import drawn, work
from canopy_stats.study.record import Prompted, Study
from canopy_stats.study.stages import Key, Stage, code_hash, model_identity

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run

MAIN = "main"


@dataclass(eq=False)
class Part:
    """The study itself (named ``main``), or one ablation of it.

    ``home`` holds its prompts and runs, which an ablation that draws nothing shares with the study (``lender``);
    ``out`` is the study's folder.
    """

    name: str
    study: Study
    out: Path
    lender: Part | None = None

    @property
    def home(self) -> Path:
        """The folder of the part's prompts, runs and checks."""
        if self.lender is not None:
            return self.lender.home
        return self.out if self.name == MAIN else self.out / "ablations" / self.name

    @property
    def panel_path(self) -> Path:
        return self.out / "panel.parquet" if self.name == MAIN else self.out / "panels" / f"{self.name}.parquet"

    @cached_property
    def runs(self) -> dict[str, Run] | None:
        """The part's runs by name; None as long as they are not all drawn from this study."""
        return self.lender.runs if self.lender is not None else drawn.finished(self.study, self.home)

    @property
    def contents(self) -> dict[str, str] | None:
        """Content hash of each run."""
        return {name: run.content_hash for name, run in self.runs.items()} if self.runs is not None else None

    def opened(self) -> Mapping[str, Run]:
        """The runs; UserError as long as they are not all there."""
        if self.runs is None:
            raise UserError(f"The runs of {self.name} are not all drawn.")
        return self.runs

    def stamp(self, kind: str) -> str:
        """The name of a stage's stamp."""
        return kind if self.name == MAIN else f"{kind}-{self.name}"

    def table(self, kind: str) -> Path:
        """Where a stage keeps a row for each run or prompt."""
        return self.out / kind / f"{self.name}.csv"


def parts_of(study: Study, out: Path) -> list[Part]:
    """The study and each of its ablations."""
    main = Part(MAIN, study, out)
    return [main, *(Part(a.name, study.ablated(a), out, None if a.redraws else main) for a in study.ablations)]


def stages_of(part: Part) -> Iterator[Stage]:
    """What is made of a part's runs, in order: check, embed, judge, panel."""
    runs = "every run of " + ("the study" if part.name == MAIN else f"the ablation {part.name}")
    if part.lender is None:
        yield Stage("check", part.stamp("check"), lambda: check_key(part), lambda: check(part), runs)
    yield Stage("embed", part.stamp("embed"), lambda: embed_key(part), lambda: embed(part), runs)
    if part.study.judge is not None and part.lender is None:
        yield Stage("judge", part.stamp("judge"), lambda: judge_key(part), lambda: judge(part), runs)
    yield Stage("panel", part.stamp("panel"), lambda: panel_key(part), lambda: make_panel(part),
                "the runs, their embeddings and verdicts")


def _with_contents(part: Part, **more: Any) -> dict[str, Any] | None:
    return {"runs": part.contents, **more} if part.contents is not None else None


# --- check ------------------------------------------------------------------------------------------------------


def check_key(part: Part) -> Key | None:
    return _with_contents(part, **work.check_key(part.study))


def check(part: Part) -> list[Path]:
    """The check of every run; checks.csv keeps every finding."""
    import pandas as pd

    found = [work.checked(part.study, run, name).assign(run=name) for name, run in part.opened().items()]
    return [_write_csv(pd.concat(found), part.home / "checks.csv")]


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    files.make_folder(path.parent)
    files.write_atomic(path, frame.to_csv(index=False, lineterminator="\n").encode())
    return path


def one_row_each(found: pd.DataFrame) -> pd.DataFrame:
    """Findings as one row a run: z-scores, the worst difference from plain transformers, flips, and the verdict."""
    import pandas as pd

    by_run = found.pivot(index="run", columns="name", values="value").reindex(found["run"].unique())
    wrong = found["ok"].eq(False).groupby(found["run"]).any()
    shown = {"z of S - H": "z of S - H", "z of stops - A": "z of stops - A", "entropy": "entropy off by",
             "logprob": "log-prob off by", "redraw flips": "redraw flips"}
    table = pd.DataFrame({title: by_run[name] for name, title in shown.items() if name in by_run})
    return table.assign(holds=~wrong.reindex(table.index)).reset_index(names="run")


def read_checks(path: Path) -> pd.DataFrame:
    """checks.csv as one row a run. ``ok`` is empty where a finding only informs."""
    import pandas as pd

    found = pd.read_csv(path, dtype={"ok": "object"})
    return one_row_each(found.assign(ok=found["ok"].map({"True": True, "False": False, True: True, False: False})))


# --- embeddings -------------------------------------------------------------------------------------------------


def embed_key(part: Part) -> Key | None:
    return _with_contents(part, embedder=_embedder(part.study.embedder), think=part.study.think,
                          code=code_hash("metrics/embed", "metrics/hashed", "metrics/texts"))


def _embedder(asked: str | Prompted) -> Any:
    """What decides an embedder: its settings, with the content of the model where it is on the disk."""
    from canopy_stats.metrics.embed import BUILT_IN, resolve

    plain = asdict(asked) if isinstance(asked, Prompted) else {"model": asked}
    if plain["model"] not in BUILT_IN and not Path(plain["model"]).is_dir():
        return plain
    try:
        content = dict(resolve(plain["model"]).identity or {})
    except UserError:  # its package is not here, and nothing can be embedded with it
        content = {}
    return {**plain, "model": Path(plain["model"]).name, "content": content}


def _with_model(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings with the content of the model in the place of its path; a hub name stays a name."""
    return {**plain, "model": model_identity(plain["model"])}


def embed(part: Part) -> list[Path]:
    """Embeds every run's texts, which their folders keep, and counts them."""
    import pandas as pd

    from canopy_stats.metrics.embed import embed as embed_run

    rows = []
    for name, run in part.opened().items():
        made = embed_run(run, part.study.embedder, think=part.study.think)
        rows.append({"run": name, "embedder": made.label, "texts": len(made.vectors),
                     "dimensions": made.vectors.shape[1], "longer than read": int(made.truncated.sum()),
                     "empty": int(made.empty.sum())})
    return [_write_csv(pd.DataFrame(rows), part.table("embeddings"))]


# --- verdicts ---------------------------------------------------------------------------------------------------


def judge_key(part: Part) -> Key | None:
    spec = _judge(part.study)
    return _with_contents(part, judge={**spec, "embedder": _embedder(spec.get("embedder", part.study.embedder))},
                          code=code_hash("metrics/judge", "metrics/judging", "metrics/rse"))


def _judge(study: Study) -> dict[str, Any]:
    """What the judge is asked for; one that compares embeddings takes the study's unless it names its own."""
    return {"think": study.think, **(study.judge or {})}


def judge(part: Part) -> list[Path]:
    """Semantic entropy of every prompt, by the study's judge."""
    import pandas as pd

    from canopy_stats.metrics.judge import judge_run

    spec = {"progress": False, **_judge(part.study)}
    if spec["kind"] == "embedding":
        spec.setdefault("embedder", part.study.embedder)
    rows = [judge_run(run, spec).assign(run=name, model_name=run.config.family, model_variant=run.config.variant)
            for name, run in part.opened().items()]
    return [_write_csv(pd.concat(rows), part.table("judged"))]


_JUDGED = ["prompt_uid", "model_name", "model_variant"]


def _with_verdicts(panel: pd.DataFrame, judged: Path) -> pd.DataFrame:
    """The panel with the columns that a judge fills."""
    import pandas as pd

    found = pd.read_csv(judged, dtype=dict.fromkeys(_JUDGED, "str"), keep_default_na=False, na_values=[""])
    return panel.merge(found[[*_JUDGED, "RSE", "RSE_cs", "rse_m"]], on=_JUDGED, how="left", validate="one_to_one")


# --- panel ------------------------------------------------------------------------------------------------------


def panel_key(part: Part) -> Key | None:
    made: dict[str, Any] = {"embeddings": files.file_sha256(part.table("embeddings"))}
    if _judges(part):
        made |= {"verdicts": files.file_sha256(_verdicts(part)), "judge": judge_key(part.lender or part)}
    if None in made.values():
        return None
    reward = _with_model(asdict(part.study.reward)) if part.study.reward else None
    return _with_contents(part, **made, embedder=_embedder(part.study.embedder), think=part.study.think, reward=reward,
                          code=code_hash("metrics", "panel"))


def _verdicts(part: Part) -> Path:
    return (part.lender or part).table("judged")


def _judges(part: Part) -> bool:
    """Whether the panel gets verdicts: they are over all rollouts, and not those that a reward model left."""
    return part.study.judge is not None and part.study.reward is None


def _selection(study: Study) -> dict[str, Any]:
    """The option of ``panel`` that keeps, of each prompt, the rollouts that a reward model likes best."""
    if study.reward is None:
        return {}
    from canopy_stats.metrics.reward import best_rollouts

    return {"rollouts": best_rollouts(study.reward.model, study.reward.keep, think=study.think, device=study.device,
                                      progress=False)}


def make_panel(part: Part) -> list[Path]:
    """The panel of the part, with how it was made inside the file and, of the study itself, beside it."""
    from canopy_stats.panel import panel, write_panel

    note = {"canopy_stats": __version__, "study": part.study.described(), **(panel_key(part) or {})}
    made = panel(list(part.opened().values()), embedder=part.study.embedder, think=part.study.think,
                 **_selection(part.study))
    if _judges(part):
        made = _with_verdicts(made, _verdicts(part))
    files.make_folder(part.panel_path.parent)
    write_panel(made, part.panel_path, note)
    beside = part.panel_path.with_suffix(".json")
    files.write_atomic(beside, json.dumps(note, indent=1, ensure_ascii=False).encode())
    return [part.panel_path, beside]
