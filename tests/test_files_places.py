"""What is written is a new file of its own name: no link is followed, and the temporary name cannot be foreseen."""

from __future__ import annotations

import stat

import pytest

from canopy_stats import files
from canopy_stats.schema import UserError, printable


def test_a_link_is_refused_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match="is a link"):
        files.write_atomic(tmp_path / "link", b"x")
    assert (tmp_path / "target").read_text() == "precious" and (tmp_path / "link").is_symlink()


def test_temporary_names_differ_and_leave_nothing(tmp_path, monkeypatch):
    seen = []
    through = files._write_through
    monkeypatch.setattr(files, "_write_through", lambda path, data: (seen.append(path), through(path, data)))
    for _ in range(2):
        files.write_atomic(tmp_path / "a", b"x")
    assert seen[0] != seen[1] and all(files.is_temporary(path) for path in seen)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o400


@pytest.mark.parametrize("name", ["/", ".", "a\0b", "x" * 300])
def test_a_place_that_no_file_can_have_is_told(tmp_path, name):
    with pytest.raises(UserError):
        files.write_atomic(tmp_path / name, b"x")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "link/a", "a\0b"])
def test_nothing_outside_of_a_folder_is_inside(tmp_path, name):
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UserError, match="outside"):
        files.inside(tmp_path, name)
    assert files.inside(tmp_path, "a/b") == tmp_path / "a/b"


def test_a_terminal_is_not_steered():
    assert printable("a\x1b[2Jb\r\n\tc\u202e") == "a\\x1b[2Jb\\r\n\tc\\u202e"
