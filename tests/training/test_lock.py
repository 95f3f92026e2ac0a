"""One training at a time in a folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atlf_jax.training.lock import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from atlf_jax.training.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_holder_ends_however_it_ends(tmp_path) -> None:
    settings = {"env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], **settings, text=True) as process:
        assert process.stdout.readline() == "held\n"
        for _ in range(2):
            message = (
                rf"^{tmp_path} is in use by another training \(process {process.pid} on .*\); wait for it, stop it,"
            )
            with pytest.raises(ValueError, match=message), exclusive(tmp_path):
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with exclusive(tmp_path) as notice:
            assert notice == "" and str(os.getpid()) in (tmp_path / "lock").read_text()
    with exclusive(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with exclusive(tmp_path) as notice:
        assert notice == f"{tmp_path} cannot be locked (No locks available): let no second training use it"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for folder in (file, file / "run", Path("/proc/run"), Path("/sys/run")):
        message = f"^the folder {folder} cannot be written .*; give another with --workdir=DIR$"
        with pytest.raises(ValueError, match=message), exclusive(folder):
            pass
    assert file.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to the superuser")
def test_a_folder_that_is_not_permitted_is_refused(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written .Permission denied.; give another"), exclusive(tmp_path):
        pass
