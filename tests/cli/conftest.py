"""Running commands in this process."""

import pytest

from spikevit.cli import threads
from spikevit.cli.main import main


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    """The number of threads that one test chooses is not that of the next."""
    monkeypatch.setattr(threads, "chosen", None)
    monkeypatch.setattr(threads, "_ours", [])


@pytest.fixture
def cli(capsys):
    """Runs a command: (status, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in argv])
        except SystemExit as end:  # argparse
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(cli):
    """Runs a command that must fail, and returns its one line on stderr."""

    def run(*argv: object) -> str:
        status, out, err = cli(*argv)
        assert status == 2
        assert out == "" and err.startswith("spikevit: ")
        assert err.endswith("\n") and err.count("\n") == 1, f"not one line: {err}"
        return err

    return run
