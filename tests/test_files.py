"""Files: the old one or the new one, several together, no trick of the formats that are read."""

import os
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from spikevit import files
from spikevit.files import write_atomically, write_together

# --- the old file or the new one -------------------------------------------------------------------------------------


def half(path):
    path.write_bytes(b"half")
    raise RuntimeError("the writer broke")


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match=r"could not save .*file \(the file that was there is untouched\): the writer"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays"


def test_a_failing_writer_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"\(nothing was left behind\): the writer broke"):
        write_atomically(tmp_path / "file", half)
    assert not list(tmp_path.iterdir())


def test_interruption_leaves_the_old_file(tmp_path):
    def interrupted(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", interrupted)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary):
        assert temporary.parent == path.parent, "a rename is atomic on one file system only"
        temporary.write_text("new")
        assert path.read_text() == "old"

    with path.open() as reader:
        write_atomically(path, write)
        assert reader.read() == "old", "who reads it meanwhile goes on with the old one"
    assert path.read_text() == "new"


# --- several files that belong together -------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from spikevit import files

calls = 0
def counted(name):
    real = getattr(os, name)
    def call(*args, **options):
        global calls
        calls += 1
        if calls > int(sys.argv[2]):
            os._exit(9)
        return real(*args, **options)
    return call

for name in ("fsync", "link", "replace", "unlink"):
    setattr(os, name, counted(name))
folder = Path(sys.argv[1])
files.write_together({folder / "a.txt": files.text_writer("a"), folder / "b.txt": files.text_writer("b")})
"""


@pytest.mark.parametrize("calls", range(7))
def test_killed_between_two_files(tmp_path, calls):
    """At every call of the system: either both are there, or a second try is not refused and nothing is left of it."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(calls)])
    both = {"--a": tmp_path / "a.txt", "--b": tmp_path / "b.txt"}
    if done.returncode == 9 and calls < 5:
        files.refuse_existing(both)
    else:  # the last temporary name is all that may be left
        with pytest.raises(ValueError, match=r"a\.txt exists already and is not overwritten; name another with --a"):
            files.refuse_existing(both)
    write_together({path: files.text_writer(path.stem) for path in both.values()})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "a", "b.txt": "b"}


def test_a_file_of_before_stays(tmp_path):
    """What was whole before an interrupted writing of its neighbour is not taken for a part of it."""
    (tmp_path / "a.txt").write_text("old")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".b.txt.{dead.stdout.strip()}.tmp").write_text("half")
    with pytest.raises(ValueError, match=r"a\.txt exists already"):
        files.refuse_existing({"--a": tmp_path / "a.txt", "--b": tmp_path / "b.txt"})
    assert (tmp_path / "a.txt").read_text() == "old"


def test_one_file_for_two_options(tmp_path):
    with pytest.raises(ValueError, match="--json and --csv name one file"):
        files.refuse_existing({"--json": tmp_path / "x", "--csv": str(tmp_path / "x"), "--plot": None})


def test_temporary_files_of_the_living_stay(tmp_path):
    living = tmp_path / f".x.{os.getpid()}.tmp"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    others = [
        tmp_path / f".x.{dead.stdout.strip()}.tmp",
        tmp_path / ".x.tmp",
        tmp_path / "x.tmp",
        tmp_path / ".x.y.tmp",
    ]
    for path in (living, *others):
        path.touch()
    assert files.clear_orphans(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([living, *others[1:]])


HOLD = """
import sys
from pathlib import Path
from spikevit import files
with files.locked(Path(sys.argv[1])):
    print()
    sys.stdin.read()
"""


def test_a_directory_is_held_by_one_process(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-uc", HOLD, str(tmp_path)], **pipes)
    other.stdout.readline()
    with pytest.raises(ValueError, match="another process is working in"), files.locked(tmp_path):
        pass
    other.kill()
    other.wait()
    with files.locked(tmp_path):
        pass


# --- reading ---------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LAUGHS, r"alias \*a: write it out"),
        ("&a [*a]", r"alias \*a"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("[" * 5000, "recursion"),
        ("a: 1\na: 2", "the key 'a' comes twice"),
        ("a: [1", "expected ',' or ']'"),
        ("a: \x00", "special characters"),
        ("? [a]\n: 1", "unhashable"),
        ("x: " + "9" * 5000, "Exceeds the limit|too large"),
        ("2024-99-99", "month must be"),
        ("\n".join("- 1" for _ in range(100_001)), "more than 100,000 values"),
    ],
    ids=range(11),
)
def test_yaml_without_tricks(text, fault):
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"my\.yaml is bad: .*({fault})"):
        files.parse_yaml(text, "my.yaml is bad")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("-2.5E+1", -25.0), ("1e3", 1000.0), (".inf", float("inf"))]
)
def test_numbers_of_yaml(text, value):
    assert files.parse_yaml(text, "") == value and type(files.parse_yaml(text, "")) is float


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("NaN", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ('{"a": 1, "a": 2}', "the key 'a' comes twice"),
        ("[" * 200_000, "recursion"),
        ("", "Expecting value"),
    ],
)
def test_json_without_tricks(text, fault):
    with pytest.raises(ValueError, match=f"x is bad: .*{fault}"):
        files.parse_json(text, "x is bad")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(files.MOST + 1)
    for name, fault in {
        "pipe": "is no regular file, not a recipe",
        "none": "there is no recipe",
        ".": "is a directory, not a recipe",
        "latin": "no UTF-8 text",
        "large": "too many for a recipe",
        "x" * 300: "there is no recipe|cannot be a recipe",
        "a\0b": "there is no recipe|cannot be a recipe",
    }.items():
        with pytest.raises(ValueError, match=fault):
            files.read_text(tmp_path / name, "a recipe")


def test_tables(tmp_path):
    path = tmp_path / "t.csv"
    rows = [{"layer": "=1+1", "rate": 0.25}, {"layer": "-2.5", "rate": 1e-9}, {"layer": 'a,"b"\n', "rate": -0.5}]
    files.write_text(path, files.csv_text(rows))
    found = files.read_rows(path, ["rate"], ["layer"])
    assert [row["rate"] for row in found] == [0.25, 1e-9, -0.5]
    assert [row["layer"] for row in found] == ["'=1+1", "-2.5", 'a,"b"\n'], "no spreadsheet takes it for a formula"
    assert files.read_rows(tmp_path / "none.csv", ["rate"]) == []


@pytest.mark.parametrize(
    "text", ["", "rate\n1\n", "rate,layer\nnan,a\n", "rate,layer\n1\n", "rate,layer\nx,a\n", 'rate,layer\n1,"a']
)
def test_broken_tables(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=r"t\.csv is broken, not a table of rate, layer"):
        files.read_rows(tmp_path / "t.csv", ["rate"], ["layer"])
