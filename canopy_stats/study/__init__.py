"""The whole chain for a set of checkpoints and tasks, in one folder, resumable at every stage.

::

    OUT/runs/<task>-<family>-<variant>/   one run for each checkpoint and task
    OUT/prompts/<task>.jsonl              the prompts that were used
    OUT/checks.csv                        the check of every run
    OUT/embeddings/, judged/              which texts were embedded and by what; verdicts on who means the same
    OUT/panel.parquet, panel.json         one row a prompt and checkpoint, and how it was made
    OUT/panels/<name>.parquet, .json      the same for each further embedder and ablation
    OUT/ablations/<name>/                 prompts, runs and checks of an ablation that draws rollouts of its own
    OUT/fits/                             slope table, each model's slopes in numbers and words, and the fits
    OUT/tables/, figures/, summary.md, report.html, study.json
    OUT/stages/                           what each stage was made from, by content hash
    OUT/stale/                            runs that were drawn from other settings, where they were drawn again
    OUT/times.json                        what each stage of the last call took
"""

from canopy_stats.study.demo import run_demo
from canopy_stats.study.load import read_study
from canopy_stats.study.pipeline import run_study
from canopy_stats.study.result import StudyResult
from canopy_stats.study.spec import Ablation, Checkpoint, Embedder, FewShot, Judge, Law, ModelFamily, Reward, Study

__all__ = ["Ablation", "Checkpoint", "Embedder", "FewShot", "Judge", "Law", "ModelFamily", "Reward", "Study",
           "StudyResult", "read_study", "run_demo", "run_study"]
