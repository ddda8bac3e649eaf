"""A run's folder: Parquet shards, the log that vouches for them, resume, growth, and reading back.

::

    RUN/manifest.json                     what was asked, where it was drawn, content, versions, drift
    RUN/shards.jsonl                      one line a shard: its rollouts, hashes and surroundings
    RUN/prompts.jsonl                     prompt_id, hash, source, token_ids
    RUN/rollouts/shard-00000.parquet      one row a rollout (schema.ROLLOUT_COLUMNS)
    RUN/steps/shard-00000.parquet         one row a token (schema.STEP_COLUMNS), a row group for each prompt
    RUN/tables/NAME.parquet, NAME.json    what was made from the run, with its provenance
    RUN/tables/NAME/block-00000.parquet   the same in blocks, with key.json and blocks.jsonl (embeddings)

A shard counts only when the log holds the SHA-256 of both its files and the hash of their content: a writer killed at
any moment leaves a folder from which the next one resumes.
"""

from canopy_stats.store.excerpts import Excerpt, excerpt
from canopy_stats.store.export import export_runs
from canopy_stats.store.glances import Glance, glance
from canopy_stats.store.manifest import stored_config
from canopy_stats.store.plan import Shard, ShardPlan
from canopy_stats.store.prompts import changes as prompt_changes
from canopy_stats.store.prompts import prompts_hash
from canopy_stats.store.reading import Run, open_run
from canopy_stats.store.tables import KINDS, ShardTables, arrow_schema, shard_tables, step_table
from canopy_stats.store.writing import RunWriter

__all__ = [
    "KINDS",
    "Excerpt",
    "Glance",
    "Run",
    "RunWriter",
    "Shard",
    "ShardPlan",
    "ShardTables",
    "arrow_schema",
    "excerpt",
    "export_runs",
    "glance",
    "open_run",
    "prompt_changes",
    "prompts_hash",
    "shard_tables",
    "step_table",
    "stored_config",
]
