"""Forked work gives what a loop gives, whatever the number of workers."""

import os

import numpy as np
import pytest

from canopy_stats.mixed.inference.parallel import _shared, fork_map
from canopy_stats.schema import UserError


def draw(i):
    return float(np.random.default_rng(np.random.SeedSequence(7).spawn(11)[i]).random())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answers_are_in_order_and_do_not_depend_on_the_workers(workers):
    assert fork_map(draw, 11, workers) == [draw(i) for i in range(11)]


def test_work_is_done_in_other_processes_and_may_close_over_anything():
    here, offset = os.getpid(), 5
    found = fork_map(lambda i: (i + offset, os.getpid() != here), 6, 2)
    assert found == [(i + 5, True) for i in range(6)]


def test_work_may_itself_be_split():
    assert fork_map(lambda i: sum(fork_map(lambda j: i * j, 3, 1)), 4, 2) == [0, 3, 6, 9]


def test_an_error_reaches_the_caller_and_nothing_is_left_behind():
    with pytest.raises(ZeroDivisionError):
        fork_map(lambda i: 1 // (i - 2), 4, 2)
    assert not _shared


def test_no_workers():
    with pytest.raises(UserError, match="workers is 0"):
        fork_map(draw, 3, 0)
