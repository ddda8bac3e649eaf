"""What a study's desk hands out and takes, whoever does the work: here one after the other in this process."""

from __future__ import annotations

import random
import shutil

import pytest
from fake_engine import FakeEngine
from markov_study import drawn, study

from canopy_stats.schema import UserError
from canopy_stats.store import open_run
from canopy_stats.study.executors import Local
from canopy_stats.study.executors.desk import Desk
from canopy_stats.study.executors.hand import Declined, Hand
from canopy_stats.study.executors.items import Begin, CheckModel, DrawShards
from canopy_stats.study.executors.tally import Tally


class Shuffled:
    """Several hands that take turns at random, and lose an item now and then."""

    waits = True

    def __init__(self, hands: int = 1, lose: int = 0, seed: int = 0) -> None:
        self.hands, self.lose, self.random = [Hand() for _ in range(hands)], lose, random.Random(seed)
        self.begun: list[str] = []
        self.most_open = 0

    def draw(self, out, wanted, say, progress):
        with Desk(wanted, say, progress) as desk:
            holding, begun = {}, set()
            while desk.open:
                for number, hand in enumerate(self.hands):
                    if number not in holding and (item := desk.take(hand._loaded and hand._loaded[0])) is not None:
                        holding[number] = item
                number = self.random.choice(list(holding))
                item = holding.pop(number)
                if self.lose and not isinstance(item, Begin) and self.random.random() < 0.3:
                    self.lose -= 1
                    desk.lost(item, "killed")
                else:
                    begun.add(item.run)
                    desk.done(item, self.hands[number].do(item))
            self.tally = desk.tally


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What the study gives when this process draws it, run by run."""
    folder = tmp_path_factory.mktemp("here")
    return drawn(study(folder), folder / "out", Local())


@pytest.mark.slow
@pytest.mark.parametrize("hands, lose", [(1, 0), (4, 0), (4, 6)])
def test_one_content_whoever_draws(tmp_path, here, hands, lose):
    crew, said = Shuffled(hands, lose), []
    assert drawn(study(tmp_path), tmp_path / "out", crew, said) == here
    assert crew.tally.lost == lose - crew.lose and (crew.tally.done, crew.tally.shards) == (8, 8)
    assert sum("drawn and checked" in line for line in said) == 2


@pytest.mark.slow
def test_a_stopped_desk_goes_on(tmp_path, here):
    """Half the shards are drawn, then nothing is left of the desk; another one begins with what is stored."""

    class Half(Shuffled):
        def draw(self, out, wanted, say, progress):
            with Desk(wanted, say, progress) as desk:
                for _ in range(4):
                    item = desk.take(None)
                    desk.done(item, self.hands[0].do(item))

    with pytest.raises(UserError):
        drawn(study(tmp_path), tmp_path / "out", Half())
    stored = open_run(tmp_path / "out/runs/walk-fake-base", allow_partial=True)
    assert len(stored.shards) > 0 and not stored.complete
    crew = Shuffled()
    assert drawn(study(tmp_path), tmp_path / "out", crew) == here
    assert crew.tally.shards == 8 - len(stored.shards)


def test_shards_come_before_new_runs_and_checks_last(tmp_path):
    order: list[str] = []

    class Noted(Shuffled):
        def draw(self, out, wanted, say, progress):
            with Desk(wanted, say, progress) as desk:
                while desk.open:
                    item = desk.take(None)
                    order.append(type(item).__name__)
                    desk.done(item, self.hands[0].do(item))

    drawn(study(tmp_path), tmp_path / "out", Noted())
    one_run = ["Begin", *["DrawShards"] * 4, "DrawAgain", "DrawAgain"]
    assert order == one_run * 2  # a model that is an object has no second loader: its checks need no worker


def test_an_item_that_ends_every_worker_is_named(tmp_path):
    class Deadly(Shuffled):
        def draw(self, out, wanted, say, progress):
            with Desk(wanted, say, progress) as desk:
                begin = desk.take(None)
                desk.done(begin, self.hands[0].do(begin))
                for _ in range(3):
                    desk.lost(desk.take(None), "ActorDiedError")

    with pytest.raises(UserError, match="3 workers ended over the same part of walk-fake-base .*ActorDiedError"):
        drawn(study(tmp_path), tmp_path / "out", Deadly())
    drawn(study(tmp_path), tmp_path / "out", Local())  # the run's folder is free again


def test_what_nobody_can_do_is_said_as_it_was_said_there(tmp_path):
    class Refusing(FakeEngine):
        def encode(self, source):
            raise UserError("This prompt cannot be read.")

    with pytest.raises(UserError, match=r"^This prompt cannot be read\.$"):
        drawn(study(tmp_path, Refusing()), tmp_path / "out", Shuffled())
    assert Hand().do(Begin("r", _model(Refusing()), None, [("0", "x")], 1, None)) == Declined("This prompt cannot be "
                                                                                              "read.")


def _model(engine):
    from canopy_stats.schema import ModelSource
    from canopy_stats.study.executors.items import Model

    return Model("m", ModelSource(object()), "base", engine, {})


def test_other_weights_elsewhere_are_refused(tmp_path):
    class Changing(FakeEngine):
        """Says of itself what another machine's copy would: other weights from the second look on."""

        def describe(self):
            self.looks = getattr(self, "looks", 0) + 1
            return {**super().describe(), "weights": "w0" if self.looks == 1 else "w1"}

    with pytest.raises(UserError, match="drawn by another model.*model.weights: stored 'w0', asked 'w1'"):
        drawn(study(tmp_path, Changing()), tmp_path / "out", Shuffled())


def test_where_each_shard_was_drawn(tmp_path):
    """A run that two kinds of machine draw says so; its content is the same."""

    class Machine(FakeEngine):
        def describe(self):
            self.looks = getattr(self, "looks", 0) + 1
            return {**super().describe(), "device_name": "old" if self.looks < 4 else "new"}

    drawn(study(tmp_path, Machine()), tmp_path / "out", Shuffled())
    run = open_run(tmp_path / "out/runs/walk-fake-base")
    names = {values["device_name"]: name for name, values in run.manifest["surroundings"].items()}
    assert [s["surroundings"] for s in run.shards] == [names["old"]] * 2 + [names["new"]] * 2
    assert set(run.manifest["drift"]["elsewhere"]) == {names["new"]}


def test_a_worker_keeps_its_engine(tmp_path):
    """With both arms begun, a hand that holds one arm's engine is given that arm's shards."""
    asked = study(tmp_path)
    from canopy_stats.study.executors import Wanted

    drawn(asked, tmp_path / "out", Local())
    for name in asked.runs:
        shutil.rmtree(tmp_path / "out/runs" / name)
    with Desk([Wanted("main", asked, tmp_path / "out", tuple(asked.runs))], print, False) as desk:
        hand = Hand()
        first, second = desk.take(None), desk.take(None)
        for item in (first, second):
            desk.done(item, hand.do(item))
        taken = [desk.take(second.model.key) for _ in range(5)]
    assert [item.run == second.run for item in taken] == [True] * 4 + [False]
    assert all(isinstance(item, DrawShards) for item in taken) and not isinstance(first, CheckModel)


def test_how_far_it_is_in_words():
    tally = Tally(40, workers=4, clock=0.0)
    tally.drew(10, 5000)
    tally.lost = 1
    words = tally.line()
    assert words.startswith("  10 of 40 shards, ") and " by 4 workers, " in words
    assert " left, " in words and words.endswith("1 worker lost")
