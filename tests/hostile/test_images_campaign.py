"""A sample of the campaign on image files; all of it: python tests/hostile/images.py 1200 0."""

import sys

import pytest
from images import campaign


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process held at most")
def test_images():
    found = campaign(160, seed=0)
    assert found["images"] == found["read"] + found["refused"] == 160 and found["read"] > 40
    assert not found["tracebacks"] + found["unnamed"] + found["hangs"] + found["large"], found
