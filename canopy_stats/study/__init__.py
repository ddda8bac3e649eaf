"""The whole chain for a set of checkpoints and tasks, in one folder, resumable at every stage.

::

    OUT/runs/<task>-<family>-<variant>/   one run for each checkpoint and task
    OUT/prompts/<task>.jsonl              the prompts that were used
    OUT/panel.parquet, panel.json         one row a prompt and checkpoint, and how it was made
    OUT/checks.csv, tables/, figures/, summary.md
    OUT/stages/                           what each stage was made from, by content hash
"""

from canopy_stats.study.chain import StudyResult, run_study
from canopy_stats.study.demo import run_demo
from canopy_stats.study.record import Checkpoint, Family, Study

__all__ = ["Checkpoint", "Family", "Study", "StudyResult", "run_demo", "run_study"]
