"""Renew everything that vouches for a run after its manifest or files were changed: a lie that only a check can see."""

import json

from canopy_stats import files
from canopy_stats.store import manifest as on_disk
from canopy_stats.store.identity import run_id
from canopy_stats.store.prompts import read_prompt_lines
from canopy_stats.store.reading import content_of
from canopy_stats.store.shard_files import content_now


def revouch(path):
    stored = json.loads((path / "manifest.json").read_text())
    stored["run_id"] = run_id(stored["config"])
    by_hash = {p.prompt_hash: p for p in read_prompt_lines((path / "prompts.jsonl").read_bytes())}
    shards = on_disk.read_shards(path, stored, list(by_hash))
    for shard in shards:
        for kind in ("rollouts", "steps"):
            shard[kind]["sha256"] = files.file_sha256(path / shard[kind]["path"])
        shard["content"] = content_now(path, shard, by_hash)
    on_disk.rewrite_log(path, shards)
    (path / "manifest.json").write_text(json.dumps({**stored, "content_hash": content_of(stored, shards)}))
