"""Where a study's rollouts are drawn and checked: here, by Ray's workers, or by the jobs of a Slurm array.

An executor is given the runs that are still to be drawn, with their prompts in place, and leaves them drawn, stamped
and checked in the study's folder. Which stages there are, and their order, it does not know.

``local`` draws in this process or in several, each of which writes its own runs. ``ray`` hands out pieces of runs:
``desk`` knows what is to be done next and is the only one that writes (``at_work`` is one run there), ``items`` are the
pieces, ``hand`` is a worker with one engine. ``slurm`` submits an array and does not wait for it.
"""

from canopy_stats.study.executors.choose import executor_of
from canopy_stats.study.executors.local import Local
from canopy_stats.study.executors.on_ray import Ray
from canopy_stats.study.executors.protocol import Executor, Wanted
from canopy_stats.study.executors.slurm import Slurm

__all__ = ["Executor", "Local", "Ray", "Slurm", "Wanted", "executor_of"]
