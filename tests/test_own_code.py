"""Names of the form FILE.py:NAME, by which a user's own code is found."""

from pathlib import Path

import pytest

from atlf_jax.own_code import find, load_file, name_of

TABLE = {"one": int}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("VALUE = 3\n")
    path = tmp_path / "mine.py"
    path.write_text("import beside\n\n\nclass Mine:\n    value = beside.VALUE\n")
    return path


def test_a_name_of_a_file_is_found_and_named_again(file: Path) -> None:
    mine = find(f"{file}:Mine", TABLE, what="class")
    assert mine.value == 3
    assert mine is load_file(file).Mine
    assert name_of(mine, TABLE, what="class") == f"{file}:Mine"
    assert find(name_of(int, TABLE, what="class"), TABLE, what="class") is int


def test_what_is_not_there_is_said_in_one_sentence(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="defines no class 'Mime'; did you mean Mine"):
        find(f"{file}:Mime", TABLE, what="class")
    with pytest.raises(ValueError, match="no Python file .*other.py"):
        find(f"{tmp_path}/other.py:Mine", TABLE, what="class")
    with pytest.raises(ValueError, match=r"unknown class 'ome': did you mean 'one'\?"):
        find("ome", TABLE, what="class")
    (tmp_path / "broken.py").write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(ValueError, match=r"broken.py, line 2: ZeroDivisionError"):
        load_file(tmp_path / "broken.py")
    with pytest.raises(ValueError, match="at the top level of a Python file"):
        name_of(lambda: None, TABLE, what="function")
