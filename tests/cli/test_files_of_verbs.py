"""No verb writes over a file, and one that was killed while it wrote can be run again."""

import os
from pathlib import Path

import pytest
import torch

from spikevit import files, save_model
from spikevit.cli.main import main
from spikevit.conversion.quantise import quantise
from spikevit.data import normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build

SMALL = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=2"]
STAIRS = [
    *("data.image_size=8", "model.config.widths=[8,16,16]", "model.config.depths=[1,1,1]"),
    *("model.config.strides=[1,2,1]", "model.config.head_width=8"),
]
TEXTS = {"a.txt": "one", "b.txt": "two" * 1000, "c.txt": "three"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "180")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


def killed(at: int, work) -> bool:
    """Whether a process that does `work` and is killed at its at-th step on files, from 0, got that far."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    try:
        left = at

        def deadly(operation):
            def instead(*args, **options):
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return operation(*args, **options)

            return instead

        for name in ("fsync", "link", "replace", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def write(texts: dict[str, str]) -> None:
    files.refuse_existing({f"--{name}": name for name in texts})
    files.write_together({name: files.text_writer(text) for name, text in texts.items()})


def there() -> dict[str, str]:
    return {path.name: path.read_text() for path in Path().iterdir()}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_killed_at_every_step(count, links, monkeypatch):
    """Each file is whole or not there; then all of them are there, and nothing else."""
    if not links:  # as on a memory stick: a kill between two files is not noticed there
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
        count = 1
    texts = dict(list(TEXTS.items())[:count])
    at, finished = 0, False
    while killed(at, lambda: write(texts)):
        found = {name: text for name, text in there().items() if name in texts}
        assert found == {name: texts[name] for name in found}, at
        try:
            write(texts)
        except ValueError as error:  # it was killed behind its last file
            assert "exists already and is not overwritten" in str(error) and found == texts
            finished = True
            files.clear_orphans(Path())
        assert there() == texts, at
        for name in texts:
            Path(name).unlink()
        at += 1
    assert at >= 3 * count and (finished or count == 1), "there is something to be killed at"
    assert there() == texts


def test_of_files_that_belong_together_a_failure_leaves_none():
    Path("c.txt").mkdir()
    with pytest.raises(OSError, match="could not save c.txt"):
        files.write_together({name: files.text_writer(text) for name, text in TEXTS.items()})
    assert [path.name for path in Path().iterdir()] == ["c.txt"]


def test_a_file_of_the_users_between_ours_is_kept():
    """Killed behind its first file; then another one of the set appears."""
    texts = dict(list(TEXTS.items())[:2])
    at = next(n for n in range(20) if not (killed(n, lambda: write(texts)) and not Path("a.txt").exists()))
    assert Path("a.txt").exists() and not Path("b.txt").exists() and at > 0
    Path("b.txt").write_text("mine")
    with pytest.raises(ValueError, match="txt exists already and is not overwritten; name another with --"):
        write(texts)
    assert Path("b.txt").read_text() == "mine" and Path("a.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"--out": "new.txt", "--plot": "./new.txt"}, "--out and --plot name one file"),
        ({"--out": "a.txt/x.txt"}, "a.txt is no directory; name another with --out"),
        ({"--out": "folder"}, "folder exists already"),
    ],
)
def test_names_that_cannot_be(names, message):
    Path("a.txt").write_text("mine")
    Path("folder").mkdir()
    with pytest.raises(ValueError, match=message):
        files.refuse_existing(names)


# --- the verbs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Checkpoints as training saves them: of spikes, of staircases, and of these in exact mode."""
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("made")
    for name, changes, path in (("digits", SMALL, "lif"), ("ge2mst_digits", STAIRS, "stairs")):
        recipe = load_recipe(name, changes)
        model, data = build(recipe)
        calibrate(model, normalise(data.train.images[:64], data.info))
        about = {"data": data.info.to_dict() | {"source": vars(recipe.data)}}
        save_model(model, where / f"{path}.safetensors", **about)
    exact = quantise(model)
    exact.name = model.name
    save_model(exact, where / "exact.safetensors", **about)
    return where


VERBS = {  # words, and what they write
    "profile": (["profile", "lif", "--images", 2, "--json", "p.json", "--csv", "p.csv"], ("p.json", "p.csv")),
    "eval": (["eval", "lif", "--curve", "c.csv", "--plot", "c.svg", "--count-images", 1], ("c.csv", "c.svg")),
    "plan": (
        ["plan", "stairs", "--max-error", 2, "--images", 32, "--out", "n.safetensors", "--plot", "n.svg"],
        ("n.safetensors", "n.svg"),
    ),
    "convert": (
        ["convert", "exact", "--images", 4, "--no-report", "--out", "s.safetensors", "--certificate", "s.json"],
        ("s.safetensors", "s.json"),
    ),
    "convert --exact": (
        ["convert", "stairs", "--exact", "--images", 4, "--no-report"],
        ("stairs-exact.safetensors", "stairs-spiking.safetensors", "stairs-certificate.json"),
    ),
}


@pytest.fixture
def command(made):
    """The words of one of VERBS, on copies of the checkpoints here, and the files they write."""

    def of(name: str) -> tuple[list[str], tuple[str, ...]]:
        words, written = VERBS[name]
        checkpoint = f"{words[1]}.safetensors"
        Path(checkpoint).write_bytes((made / checkpoint).read_bytes())
        return [str(words[0]), checkpoint, *map(str, words[2:])], written

    return of


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_writes_over_nothing(name, command, refused):
    """Each of its files in turn is somebody's; so is the checkpoint itself."""
    words, written = command(name)
    for path in written:
        Path(path).write_text("mine")
        before = {p.name: p.read_bytes() for p in Path().iterdir()}
        assert f"{path} exists already and is not overwritten; name another with --" in refused(*words)
        assert {p.name: p.read_bytes() for p in Path().iterdir()} == before
        Path(path).unlink()
    for path in written:
        if path in words and not path.endswith((".csv", ".svg")):
            before = Path(words[1]).read_bytes()
            assert "exists already" in refused(*(words[1] if word == path else word for word in words))
            assert Path(words[1]).read_bytes() == before


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_that_was_killed_between_its_files(name, command):
    """It can be run again, and nothing is left of the first time."""
    words, written = command(name)
    ours = {*written, words[1]}
    step = len(written) + 1  # behind writing each of them, and giving the first its name
    assert killed(step, lambda: main(words))
    halfway = {p.name for p in Path().iterdir()}
    assert written[0] in halfway and written[-1] not in halfway, "between"
    assert any(p.endswith(".tmp") for p in halfway)
    assert main(words) in (0, 1)
    assert {p.name for p in Path().iterdir()} == ours
