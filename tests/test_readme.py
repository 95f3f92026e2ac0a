"""The README's lines run."""

import re
from pathlib import Path

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_the_ten_lines_run(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "4x nominal" in printed
    assert 10 < float(re.search(r"zero-filled ([\d.]+) dB", printed).group(1)) < 35
