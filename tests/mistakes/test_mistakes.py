"""Every mistake is answered by one line that names what is wrong, its value, and what would be right."""

import pytest

from tests.mistakes.__main__ import CAMPAIGNS
from tests.mistakes.judge import Mistake, answer_in_python, answer_on_the_command_line, judge, place

CASES = [(answer, mistake) for answer, mistakes in CAMPAIGNS.values() for mistake in mistakes]


@pytest.fixture(scope="module")
def here():
    with place() as found:
        yield found


@pytest.mark.parametrize(("answer", "mistake"), CASES, ids=[f"{m.name}: {m.done[:60]}" for _, m in CASES])
def test_answer(here, answer, mistake):
    said, poor = judge(answer, mistake, here)
    assert not poor, f"{mistake.done}: {poor}: {said}"


def test_there_are_many():
    """Each is another one, and about half are made in Python, half on the command line."""
    done = [mistake.done for _, mistake in CASES]
    assert len(set(done)) == len(done) >= 130
    assert all(len(mistakes) > 0.4 * len(CASES) for _, mistakes in CAMPAIGNS.values())


@pytest.mark.parametrize(
    ("answer", "done", "fault"),
    [
        (answer_in_python, "pass", "no error"),
        (answer_in_python, 'import warnings; warnings.warn("depth")', "no error, but a warning"),
        (answer_in_python, "torch.zeros(2) @ torch.zeros(3)", "RuntimeError"),
        (answer_in_python, 'torch.zeros(2).to("gpu")', "RuntimeError"),
        (answer_in_python, 'Path("none").read_text()', "FileNotFoundError from inside "),
        (answer_in_python, 'raise ValueError("depth=0 must be\\nat least 1")', "several lines"),
        (answer_in_python, 'raise ValueError("depth must be at least 1")', "lacks '0'"),
        (answer_in_python, 'Path("new").touch(); raise ValueError("depth=0: at least 1")', "leaves new behind"),
        (answer_in_python, 'raise ValueError("depth=0 must be at least 1")', ""),
        (answer_on_the_command_line, "models spikformer_tiny", "status 0"),
        (answer_on_the_command_line, "models nothing", "lacks 'depth', 'at least 1'"),
    ],
)
def test_the_judge(here, answer, done, fault):
    """What it takes for a poor answer, and for a good one."""
    _, found = judge(answer, Mistake("", done, "depth", "0", "at least 1"), here)
    assert found.startswith(fault) and bool(found) == bool(fault)
