"""A study that Ray's workers draw has the results of one that this process draws, whoever is killed on the way.

`make test-ray` installs Ray and runs these; without it they skip.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from markov_study import STORE, Dying, Slow, drawn, study

from canopy_stats.store import open_run
from canopy_stats.study.executors import Local, Ray

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-ray installs it")

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PYTHONPATH = os.pathsep.join(map(str, [ROOT, HERE, ROOT / "tests"]))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    return drawn(study(folder), folder / "out", Local())


@pytest.fixture(scope="module", autouse=True)
def variables():
    """Workers have nothing of this process but its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def cluster(variables):
    """One Ray for several tests: starting it takes longer than they do."""
    ray.init(address="local", num_cpus=4, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_four_workers(tmp_path, here, cluster):
    said = []
    assert drawn(study(tmp_path), tmp_path / "out", Ray(workers=4), said) == here
    assert any("4 workers of 1 core each" in line for line in said)
    assert {"  walk-fake-base: ", "  walk-fake-instruct: "} <= {line.split(": ")[0] + ": " for line in said}


@pytest.mark.slow
def test_a_killed_worker(tmp_path, here, cluster):
    said, marker = [], tmp_path / "died"
    assert drawn(study(tmp_path, Dying(marker=str(marker))), tmp_path / "out", Ray(workers=2), said) == here
    assert marker.exists()
    assert sum("a worker was lost (ActorDiedError); its part is drawn by another" in line for line in said) == 1


def program(*arguments: object) -> list[str]:
    return [sys.executable, str(HERE / "markov_study.py"), *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_driver_started_again(tmp_path, here):
    out = tmp_path / "out"
    first = subprocess.Popen(program(tmp_path, out, "ray", 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    logs = [out / "runs" / name / "shards.jsonl" for name in study(tmp_path).runs]
    deadline = time.monotonic() + 400
    while not any(log.exists() and log.read_bytes().count(b"\n") for log in logs) and time.monotonic() < deadline:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = [open_run(log.parent, allow_partial=True) for log in logs if log.exists()]
    assert any(run.shards for run in left) and not all(run.manifest["finished"] for run in left)
    again = subprocess.run(program(tmp_path, out, "ray", 2), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout.splitlines()[-1]) == here


@pytest.mark.slow
def test_two_nodes_and_a_killed_one(tmp_path, here):
    """Two nodes on this machine with a worker each; one is killed, with the worker, as soon as a shard is stored."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE,
                                                          "include_dashboard": False})
    other, said = nodes.add_node(num_cpus=1, object_store_memory=STORE), []

    def kill() -> None:
        while not any((tmp_path / "out/runs").glob("*/rollouts/*.parquet")):
            time.sleep(0.02)
        nodes.remove_node(other, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert drawn(study(tmp_path, Slow()), tmp_path / "out", Ray(address=nodes.address, workers=2), said) == here
    finally:
        killer.join()
        nodes.shutdown()
    assert any("a worker was lost" in line for line in said)


@pytest.mark.slow
def test_a_study_of_birch(tmp_path):
    """The demo's small study, every stage of it: the same content as by processes of this machine."""
    from canopy_stats.study import Embedder, Law, Study, run_study
    from canopy_stats.study.demo import data_folder, tiny_families
    from canopy_stats.study.result import content_hash

    asked = Study(title="Birch", families=tiny_families(["birch"], None), law=Law(max_new_tokens=24), rollouts=4,
                  tasks={task: data_folder("prompts", None) / f"{task}.jsonl" for task in ("completion", "stories")},
                  prompts_per_task=10, embedders=[Embedder(model="tfidf")], device="cpu", workers=1, drift_tokens=40,
                  check_sample=2)
    for name, executor in {"local": "local", "ray": Ray(workers=2, object_store=STORE)}.items():
        run_study(asked, tmp_path / name, executor=executor, say=lambda line: None)
    assert content_hash(tmp_path / "local") == content_hash(tmp_path / "ray")
