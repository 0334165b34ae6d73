"""Threads on a machine that others use too: as many as cores are free, and what the user set stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spikevit.cli import threads

ROOT = Path(__file__).parents[2]
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "NUMBA_", "MKL_", "GOMP_", "KMP_"))}


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    monkeypatch.setattr(threads, "chosen", None)
    monkeypatch.setattr(threads, "_ours", [])


@pytest.fixture
def machine(monkeypatch):
    """A machine of that many processors, two of which may be one core, with that many kept busy by others."""

    def make(processors, busy, cores=None, quota=float("inf")):
        monkeypatch.setattr(threads, "allowed", lambda: list(range(processors)))
        monkeypatch.setattr(threads, "busy_among", lambda numbers: busy)
        monkeypatch.setattr(threads, "siblings", lambda numbers: set(range(cores or processors)))
        monkeypatch.setattr(threads, "quota_of_groups", lambda: quota)

    return make


@pytest.mark.parametrize(
    ("there", "number"),
    [
        ({"processors": 2, "busy": 0.1}, 2),
        ({"processors": 2, "busy": 1.0}, 1),
        ({"processors": 2, "busy": 2.0}, 1),
        ({"processors": 1, "busy": 0.0}, 1),
        ({"processors": 64, "busy": 14.2}, 50),
        ({"processors": 16, "cores": 8, "busy": 0.0}, 8),
        ({"processors": 16, "cores": 8, "busy": 3.0}, 8),
        ({"processors": 16, "cores": 8, "busy": 12.0}, 4),
        ({"processors": 64, "busy": 32.0, "quota": 4.0}, 4),
        ({"processors": 64, "busy": 62.0, "quota": 4.0}, 2),
        ({"processors": 64, "busy": 0.0, "quota": 1.5}, 1),
        ({"processors": 64, "busy": 0.0, "quota": 0.5}, 1),
    ],
)
def test_as_many_threads_as_cores_are_free(machine, there, number):
    machine(**there)
    environment: dict[str, str] = {}
    assert threads.choose(environment).threads == number
    assert environment == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "10000",
        "OMP_NUM_THREADS": str(number),
        "NUMBA_NUM_THREADS": str(number),
    }


def test_in_words(machine):
    machine(2, 1.1)
    assert str(threads.choose({})) == "2 cores, 1 of them busy: 1 thread; set OMP_NUM_THREADS to choose"
    assert threads.chosen.fewer
    machine(1, 0)
    assert str(threads.choose({})) == "1 core, none of them busy: 1 thread; set OMP_NUM_THREADS to choose"
    assert not threads.chosen.fewer


@pytest.mark.parametrize(
    "given",
    [
        {"OMP_NUM_THREADS": "7"},
        {"MKL_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"},
        {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "1", "GOMP_SPINCOUNT": "9"},
    ],
)
def test_what_the_user_set_stays(machine, given):
    """And nothing is put beside it: one that chose how to wait chose that too."""
    machine(4, 0)
    environment = dict(given)
    name = next(iter(given))
    assert f"{name}={given[name]}" in str(threads.choose(environment))
    waits = {} if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(given) else threads.WAITING
    assert environment == given | waits


def test_numba_alone_is_the_users(machine):
    machine(4, 0)
    environment = {"NUMBA_NUM_THREADS": "1"}
    threads.choose(environment)
    assert environment["NUMBA_NUM_THREADS"] == "1" and environment["OMP_NUM_THREADS"] == "4"


def test_released_numbers_are_those_that_were_set(machine):
    machine(4, 0)
    environment = {"NUMBA_NUM_THREADS": "1"}
    threads.choose(environment)
    threads.release(environment)
    assert environment == {"NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}


# --- what the system says --------------------------------------------------------------------------------------------


def stat(*processors: tuple[int, ...]) -> str:
    rows = [f"cpu{i} {' '.join(map(str, times))} 0 0" for i, times in enumerate(processors)]
    return "\n".join(["cpu  9 9 9 9 9 9 9 9 0 0", *rows, "intr 17 0", "ctxt 5"])


def test_busy_is_what_was_not_idle_between_two_looks():
    """Of 20 ticks: processor 0 idle; 1 all in use; 2 half (5 user, 5 nice); 3 waits for a disk; 4 taken elsewhere."""
    zero = (100, 0, 50, 1000, 7, 0, 3, 0)
    ticks = [(0, 0, 0, 20, 0, 0, 0, 0), (15, 0, 5, 0, 0, 0, 0, 0), (5, 5, 0, 10, 0, 0, 0, 0)]
    ticks += [(0, 0, 0, 5, 15, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 20)]
    before = threads.times(stat(*[zero] * 5))
    after = threads.times(stat(*(tuple(map(sum, zip(zero, t, strict=True))) for t in ticks)))
    assert threads.share(before, after, range(5)) == pytest.approx(2.5)
    assert threads.share(before, after, [0, 3]) == 0, "others than these are no matter"
    assert threads.share(before, before, range(5)) == 0


def test_a_system_without_processors_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0, 0))
    assert threads.busy_among([0, 1], tmp_path / "none") == 1.5
    assert threads.siblings([0, 1], tmp_path) == {"0", "1"}
    assert threads.quota_of_groups(tmp_path, tmp_path / "none") == float("inf")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quotas_of_both_kinds_of_control_groups(tmp_path):
    """The least of all groups above the process counts."""
    groups, root = tmp_path / "groups", tmp_path / "cgroup"
    groups.write_text("0::/jobs/mine\n")
    write(root / "jobs/mine/cpu.max", "max 100000\n")
    assert threads.quota_of_groups(root, groups) == float("inf")
    write(root / "jobs/cpu.max", "250000 100000\n")
    assert threads.quota_of_groups(root, groups) == 2.5
    write(root / "jobs/mine/cpu.max", "50000 100000\n")
    assert threads.quota_of_groups(root, groups) == 0.5
    groups.write_text("3:cpuset:/\n1:cpu,cpuacct:/box\n0::/\n")
    write(root / "cpu,cpuacct/box/cpu.cfs_period_us", "100000")
    write(root / "cpu,cpuacct/box/cpu.cfs_quota_us", "-1")
    assert threads.quota_of_groups(root, groups) == float("inf")
    write(root / "cpu,cpuacct/cpu.cfs_period_us", "100000")
    write(root / "cpu,cpuacct/cpu.cfs_quota_us", "300000")
    assert threads.quota_of_groups(root, groups) == 3


def test_two_processors_of_one_core(tmp_path):
    for i, core in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path / f"cpu{i}/topology/thread_siblings_list", f"{core}\n")
    assert len(threads.siblings(range(4), tmp_path)) == 2
    assert len(threads.siblings([0, 1], tmp_path)) == 2
    assert len(threads.siblings([0, 2], tmp_path)) == 1


# --- the program -----------------------------------------------------------------------------------------------------

SHOW = """
import sys
from spikevit.cli import doctor, threads
from spikevit.cli.main import main
threads.busy_among = lambda numbers: len(numbers) - 1
def run(args):
    assert "torch" not in sys.modules and "numba" not in sys.modules
    import numba, torch
    print(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, threads.chosen)
doctor.run = run
sys.argv = ["spikevit", "doctor"]
main()
"""


@pytest.mark.parametrize(
    ("given", "number"), [({}, "1 1"), ({"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}, "2 2")]
)
def test_torch_and_numba_take_what_the_program_chose(given, number):
    pytest.importorskip("numba")
    path = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", SHOW], env=PLAIN | path | given, capture_output=True, text=True)
    assert done.stdout.startswith(number), done.stderr


def test_doctor_says_what_was_chosen_and_why(cli, machine, monkeypatch):
    machine(2, 1)
    monkeypatch.setattr(threads, "chosen", threads.choose({}))
    assert ", 2 cores, 1 of them busy: 1 thread; set OMP_NUM_THREADS to choose\n" in cli("doctor")[1]
    monkeypatch.setattr(threads, "chosen", threads.choose({"OMP_NUM_THREADS": "5"}))
    assert ", threads: 1 (OMP_NUM_THREADS=5 in the environment)\n" in cli("doctor")[1]
    monkeypatch.setattr(threads, "chosen", None)
    assert ", threads: 1\n" in cli("doctor")[1]


def test_a_call_from_python_chooses_nothing(cli, monkeypatch):
    monkeypatch.setattr(threads, "choose", lambda: pytest.fail("the caller's environment is its own"))
    assert cli("doctor")[0] == 0
