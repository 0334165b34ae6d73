"""Called by mkdocs: puts what a command prints where a page has a line such as `<!-- spikevit train --help -->`."""

from __future__ import annotations

import os
import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from unittest import mock


def on_page_markdown(markdown: str, **_) -> str:
    """The page with the output of its commands."""
    return re.sub(r"^<!-- spikevit (.*) -->$", lambda match: output(match[1]), markdown, flags=re.MULTILINE)


def output(arguments: str) -> str:
    """What `spikevit ARGUMENTS` prints, as a code block."""
    from spikevit.cli.main import main

    printed = StringIO()
    width = mock.patch.dict(os.environ, {"COLUMNS": "100"})
    with width, redirect_stdout(printed), suppress(SystemExit):  # argparse exits when it has helped
        main(arguments.split())
    if not printed.getvalue().strip():
        raise ValueError(f"spikevit {arguments} printed nothing")
    return f"```text\n$ spikevit {arguments}\n{printed.getvalue().rstrip()}\n```"
