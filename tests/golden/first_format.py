"""The run in ``first_format`` beside this script: as version 0.1.0 stored it at commit 4c98afe, before the shard log.

Run at that commit: ``PYTHONPATH=.:tests python first_format.py OUT``. 40 prompts of 20 rollouts in 4 shards of whole
prompts. ``first_format.json`` is what that version said of the run.
"""

import json
import sys
from pathlib import Path

from fake_engine import make_config, make_prompts, write_run

from canopy_stats import check, measure
from canopy_stats.schema import SamplingPolicy

out = Path(sys.argv[1])
prompts = make_prompts(40)
config = make_config(prompts, n_rollouts=20, policy=SamplingPolicy(max_new_tokens=6))
run = write_run(out / "first_format", prompts, config)
frame = measure(run)
z = {f.name: f.value for f in check(run).findings}
(out / "first_format.json").write_text(json.dumps(
    {"content_hash": run.content_hash, "z": z, "CE": frame["CE"].tolist(), "CE_cv": frame["CE_cv"].tolist(),
     "rho_kendall": frame["rho_kendall"].tolist()}, indent=1) + "\n")
