"""What is made of a part's runs: their check, embeddings, verdicts and panel, each with what it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import __version__, files
from canopy_stats.schema import UserError
from canopy_stats.study import worker
from canopy_stats.study.ablations import Part
from canopy_stats.study.spec import Embedder, Study
from canopy_stats.study.stamps import Key, code_hash, model_identity

if TYPE_CHECKING:
    import pandas as pd


def _with_contents(part: Part, **more: Any) -> dict[str, Any] | None:
    return {"runs": part.contents, **more} if part.contents is not None else None


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    files.make_folder(path.parent)
    files.write_atomic(path, frame.to_csv(index=False, lineterminator="\n").encode())
    return path


# --- check ------------------------------------------------------------------------------------------------------


def check_key(part: Part) -> Key | None:
    return _with_contents(part, **worker.check_key(part.study))


def check(part: Part) -> list[Path]:
    """The check of every run; checks.csv keeps every finding."""
    import pandas as pd

    found = [worker.checked(part.study, run, name).assign(run=name) for name, run in part.opened().items()]
    return [_write_csv(pd.concat(found), part.home / "checks.csv")]


# --- embeddings -------------------------------------------------------------------------------------------------


def embed_key(part: Part) -> Key | None:
    return _with_contents(part, embedder=_identity(part.study.embedder), think=part.study.think,
                          code=code_hash("metrics/embed", "metrics/embedding", "metrics/hashed", "metrics/texts"))


def _identity(embedder: Embedder) -> dict[str, Any]:
    """What decides an embedder: its settings, with the content of the model where it is on the disk."""
    from canopy_stats.metrics.embedding.embedders import BUILT_IN, resolve

    settings = {"model": embedder.model, **embedder.settings}
    if embedder.model not in BUILT_IN and not files.place(embedder.model).is_dir():
        return settings
    try:
        content = dict(resolve(embedder.model).identity or {})
    except UserError:  # its package is not here, and nothing can be embedded with it
        content = {}
    return {**settings, "model": Path(embedder.model).name, "content": content}


def embed(part: Part) -> list[Path]:
    """Embeds every run's texts, which their folders keep, and counts them."""
    import pandas as pd

    from canopy_stats.metrics.embed import embed as embed_run

    rows = []
    for name, run in part.opened().items():
        made = embed_run(run, part.study.embedder.asked, think=part.study.think)
        rows.append({"run": name, "embedder": made.label, "texts": len(made),
                     "dimensions": made.dimensions, "longer than read": int(made.truncated.sum()),
                     "empty": int(made.empty.sum())})
    return [_write_csv(pd.DataFrame(rows), part.table("embeddings"))]


# --- verdicts ---------------------------------------------------------------------------------------------------


def judge_key(part: Part) -> Key | None:
    spec = _judge(part.study)
    own = Embedder(model=spec["embedder"]) if "embedder" in spec else part.study.embedder
    people = _people(part.study)
    corrected = {"people": files.file_sha256(Path(people)), "correction": code_hash("metrics/people")} if people else {}
    return _with_contents(part, judge={**spec, "embedder": _identity(own)}, **corrected,
                          code=code_hash("metrics/judge", "metrics/judging", "metrics/rse"))


def _people(study: Study) -> str | None:
    """The file of people's verdicts, where there is one."""
    return study.judge.people if study.judge is not None else None


def _judge(study: Study) -> dict[str, Any]:
    """What the judge is asked for."""
    return {"think": study.think, **(study.asked_judge.spec() if study.asked_judge else {})}


def judge(part: Part) -> list[Path]:
    """Semantic entropy of every prompt, by the study's judge; where people judged too, corrected for its mistakes."""
    import pandas as pd

    from canopy_stats.metrics.judge import judge_run

    spec, runs = _judge_options(part.study), part.opened()
    rows = [judge_run(run, spec).assign(run=name, model_name=run.config.family, model_variant=run.config.variant)
            for name, run in runs.items()]
    judged, made = pd.concat(rows), []
    people = _people(part.study)
    if people is not None:
        from canopy_stats.metrics.people import correct_judge

        found = correct_judge(runs.values(), spec, people)
        judged = judged.merge(found.table[[*_JUDGED, *_CORRECTED]], on=_JUDGED, validate="one_to_one")
        made = [_write_csv(found.agreement.as_frame(), part.table("agreement"))]
    return [_write_csv(judged, part.table("judged")), *made]


def _judge_options(study: Study) -> dict[str, Any]:
    """The judge as :func:`canopy_stats.metrics.judge.judge_run` takes it; one that compares embeddings takes the
    study's unless it names its own."""
    spec = {"progress": False, **_judge(study)}
    if spec["kind"] == "embedding":
        spec.setdefault("embedder", study.embedder.asked)
    return spec


_JUDGED = ["prompt_uid", "model_name", "model_variant"]
_CORRECTED = ["RSE_corrected", "se_judge"]


def _with_verdicts(panel: pd.DataFrame, judged: Path) -> pd.DataFrame:
    """The panel with the columns that a judge fills."""
    import pandas as pd

    found = pd.read_csv(judged, dtype=dict.fromkeys(_JUDGED, "str"), keep_default_na=False, na_values=[""])
    verdicts = ["RSE", "RSE_cs", "rse_m", *(name for name in _CORRECTED if name in found)]
    return panel.merge(found[[*_JUDGED, *verdicts]], on=_JUDGED, how="left", validate="one_to_one")


# --- panel ------------------------------------------------------------------------------------------------------


def panel_key(part: Part) -> Key | None:
    made: dict[str, Any] = {"embeddings": files.file_sha256(part.table("embeddings"))}
    if _judges(part):
        made |= {"verdicts": files.file_sha256(_verdicts(part)), "judge": judge_key(part.lender or part)}
    if None in made.values():
        return None
    reward = part.study.reward
    scored = {**reward.model_dump(), "model": model_identity(reward.model)} if reward else None
    if part.study.asked_extra:
        made["extra"] = part.study.asked_extra
    return _with_contents(part, **made, embedder=_identity(part.study.embedder), think=part.study.think, reward=scored,
                          code=code_hash("metrics", "panels"))


def _verdicts(part: Part) -> Path:
    return (part.lender or part).table("judged")


def _judges(part: Part) -> bool:
    """Whether the panel gets verdicts: they are over all rollouts, and not those that a reward model left."""
    return part.study.asked_judge is not None and part.study.reward is None


def _selection(study: Study) -> dict[str, Any]:
    """The option of ``panel`` that keeps, of each prompt, the rollouts that a reward model likes best."""
    if study.reward is None:
        return {}
    from canopy_stats.metrics.reward import best_rollouts

    return {"rollouts": best_rollouts(study.reward.model, study.reward.keep, think=study.think, device=study.device,
                                      progress=False)}


def _extra(part: Part) -> dict[str, Any]:
    """The options of ``panel`` for measures on request; a judge's verdicts are those that the runs keep."""
    study = part.study
    judge = _judge_options((part.lender or part).study) if _judges(part) else None
    return {"extra": study.asked_extra, "judge": judge} if study.asked_extra else {}


def make_panel(part: Part) -> list[Path]:
    """The panel of the part, with how it was made inside the file and beside it."""
    from canopy_stats.panels import panel, write_panel

    note = {"canopy_stats": __version__, "study": part.study.described(), **(panel_key(part) or {})}
    made = panel(list(part.opened().values()), embedder=part.study.embedder.asked, think=part.study.think,
                 **_selection(part.study), **_extra(part))
    if _judges(part):
        made = _with_verdicts(made, _verdicts(part))
    files.make_folder(part.panel_path.parent)
    write_panel(made, part.panel_path, note)
    beside = part.panel_path.with_suffix(".json")
    files.write_json(beside, note)
    return [part.panel_path, beside]
