"""Completions between the log and the run: on the disk, prompt by prompt, whatever order the log had them in."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats.doors.records import Logged
from canopy_stats.doors.validate import Completion
from canopy_stats.files import canonical_json
from canopy_stats.schema import UserError

_TABLE = """CREATE TABLE completions (prompt INTEGER, rollout INTEGER, ids BLOB, text TEXT, reason TEXT, low BLOB,
            high BLOB, logprob BLOB, PRIMARY KEY (prompt, rollout)) WITHOUT ROWID"""
_OWN = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;"


class Staged:
    """The completions of a log: prompts in memory, everything else in a file that is gone afterwards."""

    def __init__(self, folder: Path):
        self._base = sqlite3.connect(folder / "completions.sqlite", isolation_level=None)
        self._base.executescript(_OWN + _TABLE + ";BEGIN")
        self._index: dict[str, int] = {}
        self.names: list[str] = []
        self.sources: list[Any] = []
        self.hashes: list[str] = []
        self.received: dict[int, tuple[int, ...]] = {}
        """Prompts' token ids, where the log tells them."""
        self.counts: list[int] = []
        self.longest, self.longest_cut, self.bounded = 0, 0, 0
        self._digest = hashlib.sha256()

    def close(self) -> None:
        self._base.close()

    @property
    def sha256(self) -> str:
        """Of every completion, in order: what was imported."""
        return self._digest.hexdigest()

    def add(self, one: Logged, made: Completion) -> None:
        """One more completion, as the next rollout of its prompt."""
        prompt = self._prompt(one)
        rollout = self.counts[prompt]
        self.counts[prompt] += 1
        blobs = [None if x is None else x.tobytes() for x in (made.low, made.high, made.logprob)]
        self._base.execute("INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                           (prompt, rollout, made.token_ids.tobytes(), made.text, made.finish_reason, *blobs))
        self.longest = max(self.longest, len(made.token_ids))
        if made.finish_reason == "length":
            self.longest_cut = max(self.longest_cut, len(made.token_ids))
        self.bounded += made.low is not None
        self._digest.update(canonical_json([prompt, rollout, made.text, made.finish_reason]) +
                            made.token_ids.tobytes() + b"".join(b or b"-" for b in blobs))

    def _prompt(self, one: Logged) -> int:
        """The index of a completion's prompt: by its name where there is one, else by its source."""
        from canopy_stats.generation.prompt_file import prompt_hash, read_source

        source = read_source(one.prompt, one.where)
        digest = prompt_hash(source)
        key = f"id {one.prompt_id}" if one.prompt_id is not None else digest
        found = self._index.setdefault(key, len(self.names))
        if found == len(self.names):
            self.names.append(one.prompt_id if one.prompt_id is not None else str(found))
            self.sources.append(source)
            self.hashes.append(digest)
            self.counts.append(0)
            if one.prompt_token_ids is not None:
                self.received[found] = tuple(int(i) for i in one.prompt_token_ids)
        elif self.hashes[found] != digest:
            raise UserError(f"{one.where}: the prompt {one.prompt_id!r} has another text than before; name different "
                            "prompts apart, or leave the ids out.")
        return found

    def completions(self, prompt: int, span: range) -> Iterator[tuple[int, Completion]]:
        """(rollout, completion) of some rollouts of a prompt."""
        rows = self._base.execute("SELECT * FROM completions WHERE prompt = ? AND rollout >= ? AND rollout < ?",
                                  (prompt, span.start, span.stop))
        for _, rollout, ids, text, reason, *blobs in rows:
            low, high, logprob = (None if b is None else np.frombuffer(b, np.float32) for b in blobs)
            yield rollout, Completion(np.frombuffer(ids, np.int32), text, reason, low, high, logprob)
