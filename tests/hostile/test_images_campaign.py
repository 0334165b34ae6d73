"""A sample of the campaign on image files; all of it: python -m tests.hostile 1 images."""

import sys

import pytest

from tests.hostile.images import campaign


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process held at most")
def test_images():
    found = campaign(160, seed=0)
    assert found["images"] == found["read"] + found["refused"] == 160 and found["read"] > 40
    assert not found["tracebacks"] + found["unnamed"] + found["hangs"] + found["large"], found
