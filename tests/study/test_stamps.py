"""What counts as the code of a stage."""

import pytest

from canopy_stats.study.stamps import code_hash, sources


def test_the_page_is_made_of_its_assets_too():
    found = {path.relative_to(path.parents[3]).as_posix() for path in sources("report") if "assets" in path.parts}
    assert found == {f"report/page/assets/page.{kind}" for kind in ("css", "html", "js")}


def test_modules_and_folders_count_once_each():
    names = [path.name for path in sources("panels", "metrics/judge", "metrics/judging")]
    assert names.count("panels.py") == names.count("judge.py") == 1 and "openai.py" in names
    assert code_hash("panels") == code_hash("panels", "panels") != code_hash("panels", "store")


def test_code_that_is_not_there_is_no_code():
    with pytest.raises(ValueError, match="no panel, metrics/juge"):
        sources("panel", "store", "metrics/juge")
