"""Exit codes, and errors told in one line."""

import pytest

from atlf_jax.program import FAILED, INTERRUPTED, REFUSED, Interrupted, errors_in_one_line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("no file\n  of that name"), REFUSED, "train.py: no file of that name\n"),
        (OSError("disk full"), REFUSED, "train.py: disk full\n"),
        (Interrupted("saved step 7"), INTERRUPTED, "train.py: saved step 7\n"),
        (KeyboardInterrupt(), INTERRUPTED, "train.py: interrupted\n"),
        (FloatingPointError("the loss is nan"), FAILED, "train.py: the loss is nan\n"),
    ],
)
def test_an_error_that_a_user_can_mend_is_one_line_and_an_exit_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as ended, errors_in_one_line("train.py"):
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError), errors_in_one_line("train.py"):
        raise KeyError("a bug")
