"""What would stop a study hours after its start, and can be seen before its first token is drawn."""

from __future__ import annotations

import os
from importlib.util import find_spec

from canopy_stats.study.spec import Study


def ready(study: Study) -> list[str]:
    """What would stop the study later, and can be seen before its first token is drawn: environment and packages."""
    judge = study.asked_judge
    if judge is None or judge.kind != "openai":
        return []
    variable, found = (judge.model_extra or {}).get("api_key_env"), list[str]()
    if variable is not None and not os.environ.get(str(variable), "").strip():
        found.append("judge.api_key_env names an environment variable that is not set or empty: put the endpoint's API "
                     "key there.")
    if find_spec("httpx2") is None:
        found.append("a judge behind an endpoint needs the package httpx2: pip install 'canopy-stats[judge]'.")
    return found
