"""Each extra does what it is installed for: python .ci/extras.py DATA, in an environment that holds them all."""

import importlib
import sys
import tempfile
from pathlib import Path

import canopy_stats as cs

CHECKOUT = Path(__file__).resolve().parents[1]
PROMPTS = ["Tell me about the harbour.", "Tell me about the mill."]


def main(data: Path) -> None:
    assert CHECKOUT not in Path(cs.__file__).resolve().parents or ".venv-dist" in cs.__file__, cs.__file__
    with tempfile.TemporaryDirectory() as folder:
        run = cs.generate(data / "models" / "alder" / "base", PROMPTS, Path(folder) / "run", family="alder",
                          variant="base", task="stories", n_rollouts=4, policy=cs.SamplingPolicy(max_new_tokens=20),
                          progress=False)
        assert cs.check(run).ok
        print(cs.measure(run, embedder="minilm")[["CE", "N_bar", "R_bar", "D"]])
        print(cs.judge(run, cs.EmbeddingJudge(0.6), m=4, progress=False)[["RSE"]])
    panel = cs.load_demo_panel()
    fit = cs.lmm("D ~ R_bar + model_variant + (1|prompt_uid)", panel)
    slopes = importlib.import_module("marginaleffects").avg_slopes(cs.to_marginaleffects(fit), variables="R_bar")
    print(slopes)
    for name in ("inspect_ai.log", "httpx2", "myst_nb", "pydata_sphinx_theme", "sphinx"):
        importlib.import_module(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
