"""A sample of the campaign in files_of_runs.py, and that it would find what it looks for."""

import json
import random

import files_of_runs
import pytest
from files_of_runs import CERTIFICATE, FILES, campaign, damaged, faults, make_run


@pytest.fixture(autouse=True)
def no_traceback(monkeypatch):
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    make_run(where)
    return where


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sample(seed):
    found = campaign(90, seed)
    assert not faults(found), faults(found)
    assert found.total() == 90 and sum(n for what, n in found.items() if what.endswith(": refused")) > 40


def test_the_run_itself_is_read(run):
    for name in FILES:
        what = files_of_runs._read(name, run / name, (run / name).read_bytes())
        assert what == ("verified" if name == CERTIFICATE else "read"), name


@pytest.mark.parametrize("name", FILES)
def test_damage_is_done(run, name):
    """Nine in ten times at least the bytes are others, and the same seed does the same."""
    data = (run / name).read_bytes()
    one, other = ([damaged(name, data, random.Random(i)) for i in range(50)] for _ in range(2))
    assert one == other and sum(text != data for text in one) >= 45


def test_what_it_looks_for_is_found(run, monkeypatch):
    """A reader that takes anything: errors of other kinds, certificates that verify though changed, infinity."""
    plain = json.loads((run / CERTIFICATE).read_text())
    plain["layers"][0]["compared"] += 1
    path = run / CERTIFICATE
    original = path.read_bytes()
    try:
        path.write_text(json.dumps(plain))
        assert files_of_runs._read(CERTIFICATE, path, original) == "refused"
        with monkeypatch.context() as careless:
            careless.setattr(files_of_runs, "main", lambda argv: 0)
            assert files_of_runs._read(CERTIFICATE, path, original) == "VERIFIED though layers changed"
    finally:
        path.write_bytes(original)
    monkeypatch.setattr(files_of_runs, "load_constants", lambda path: 1 / 0)
    monkeypatch.setattr(files_of_runs, "load_rule", lambda path: (_ for _ in ()).throw(ValueError("no")))
    found = faults(campaign(6, 0))
    assert {what.split(":")[0] for what in found} >= {"own.yaml", "rule.yaml"}
    assert "own.yaml: fault: ZeroDivisionError: division by zero" in found
    assert "rule.yaml: fault: no file in no" in found
