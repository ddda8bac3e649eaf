"""Tables that a run's folder keeps by what they were made by, so that they are not made a second time."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from canopy_stats.schema import Caution, UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from canopy_stats.store.reading import Run


def name_of(kind: str, key: Mapping[str, Any]) -> str:
    """The kind and 12 hexadecimal digits that stand for the key."""
    return f"{kind}-" + hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Kept:
    """The place of one table in a run's folder; several of a kind lie there side by side.

    ``kind`` starts the table's name, ``key`` is what decides its values, and ``field`` what the note beside it calls
    that key.
    """

    run: Run
    kind: str
    key: Mapping[str, Any]
    field: str

    @property
    def name(self) -> str:
        """The table's name in the folder."""
        return name_of(self.kind, self.key)

    def read(self) -> pa.Table | None:
        """The table; None where it is not there, damaged, or made by something else."""
        found = self.run.read_table(self.name)
        return found[0] if found is not None and found[1].get(self.field) == self.key else None

    def write(self, table: pa.Table, what: str) -> None:
        """Keep the table. Where the folder takes nothing the caller's caller is warned, since ``what`` is made again
        next time."""
        try:
            self.run.write_table(self.name, table, {self.field: dict(self.key)})
        except (UserError, OSError) as error:
            warnings.warn(f"The {what} could not be kept in the run's folder ({error}); they are computed again next "
                          "time.", Caution, stacklevel=3)
