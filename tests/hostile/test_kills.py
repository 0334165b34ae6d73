"""A sample of the campaign of kills; the whole of it is `python -m tests.hostile.kills`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="its runs are forked")
def test_what_a_kill_leaves_goes_on_or_is_free():
    """In a process of its own, since runs are forked from one that has no threads."""
    command = [sys.executable, "-m", "tests.hostile.kills", "--kills", "5", "--points", "7"]
    command += ["--stops", "2", "--full", "3", "--seed", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    killed = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()[1:]}
    assert killed["killed"] >= 10 and killed.get("ended before", 0) <= 2
