"""Draw rollouts from language models with exact entropy terms (needs the generate extra)."""

from importlib.util import find_spec

from ..schema import UserError

NEEDED = ("torch", "transformers", "filelock", "tqdm")

_missing = [name for name in NEEDED if find_spec(name) is None]
if _missing:
    raise UserError(f"Language models need packages that are not installed ({', '.join(_missing)}): "
                    "pip install 'canopy-stats[generate]', with constraints.txt of the project to keep torch small.")
