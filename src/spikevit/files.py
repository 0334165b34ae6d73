"""Files: written whole or not at all, never over what is not ours to replace, and read within bounds, as UTF-8."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from spikevit.errors import nearest, printable
from spikevit.schema import of_kind, wrong

MOST = 2**24  # bytes of a text file that is read: recipes, certificates and tables have far less
NODES = 100_000  # values in a YAML or JSON file
_writing: set[Path] = set()  # temporary files of this process


# --- writing --------------------------------------------------------------------------------------------------------


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a temporary file beside `path`, then renames it; a failure leaves nothing behind.

    Raises:
        OSError: the file could not be written whole; what was there before is untouched.
    """
    write_together({path: write})


def write_text(path: str | Path, text: str) -> None:
    """A text file, as UTF-8, whole or not at all."""
    write_atomically(path, text_writer(text))


def text_writer(text: str) -> Callable[[Path], Any]:
    """What writes that text, for `write_together`."""
    return partial(Path.write_text, data=text, encoding="utf-8")


def write_together(files: Mapping[Any, Callable[[Path], Any]]) -> None:
    """Writes several files that belong together: all of them under temporary names first, which then get their own.

    Several keep their temporary names beside their own until the last one has its own: where the process is killed
    before, `refuse_existing` knows by these that the set is not whole. Of no files, it does nothing.
    """
    if not files:
        return
    paths = {Path(path): write for path, write in files.items()}
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths}
    linked: list[Path] = []
    ours = {temporary.absolute() for temporary in temporaries.values()}
    _writing.update(ours)
    path = next(iter(paths))
    try:
        for path, write in paths.items():
            if path.is_dir():
                raise IsADirectoryError("it is a directory; name a file in it")
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_orphans(path.parent, path.name)
            write(temporaries[path])
            with open(temporaries[path], "rb") as file:
                os.fsync(file.fileno())
            temporaries[path].chmod(0o666 & ~_umask())
        for path, temporary in temporaries.items():
            if len(temporaries) > 1 and not path.exists() and _linked(temporary, path):
                linked.append(path)
            else:
                os.replace(temporary, path)
        linked = []
    except Exception as error:
        kept = "the file that was there is untouched" if path.exists() else "nothing was left behind"
        raise OSError(f"could not save {path} ({kept}): {error}") from error
    finally:
        for part in (*linked, *temporaries.values()):  # where it failed, what has its name already goes, too
            part.unlink(missing_ok=True)
        _writing.difference_update(ours)


def refuse_existing(files: Mapping[str, Any]) -> None:
    """Refuses to write over files that are there, by option: {"--out": path}; no path is none.

    What an interrupted `write_together` left of a set that is not whole is not in the way: it is removed.
    """
    paths = {option: Path(path) for option, path in files.items() if path}
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise ValueError(f"{' and '.join(paths)} name one file; give each its own")
    for option, path in paths.items():
        if not (above := next(p for p in path.absolute().parents if p.exists())).is_dir():
            raise ValueError(f"{path} cannot be written: {above} is no directory; name another with {option}")
    there = [path for path in paths.values() if path.exists()]
    if all(any(path.samefile(orphan) for orphan in _orphans(path.parent, path.name)) for path in there):
        for path in there:
            path.unlink()
    for path in paths.values():
        clear_orphans(path.parent, path.name)
    for option, path in paths.items():
        if path.exists():
            raise ValueError(f"{path} exists already and is not overwritten; name another with {option}")


def clear_orphans(directory: Path, name: str = "*", *, held: bool = False) -> int:
    """Removes temporary files that processes left which are no more; returns how many.

    held: no other process writes files of that name, since the directory is locked. Then a process that by now has the
    number of one that was killed, as often in containers, does not keep them.
    """
    orphans = _orphans(directory, name, held)
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)


def _orphans(directory: Path, name: str, held: bool = False) -> list[Path]:
    name = name if name == "*" else glob.escape(name)
    return [path for path in directory.absolute().glob(f".{name}.*.tmp") if held or _is_orphan(path)]


def _linked(temporary: Path, path: Path) -> bool:
    """Gives the file a second name; False where the file system has no such thing."""
    try:
        os.link(temporary, path)
    except OSError:
        return False
    return True


def _is_orphan(path: Path) -> bool:
    """Whether the process that its name tells of does not run, or is this one, which knows nothing of it."""
    pid = path.name.removesuffix(".tmp").rpartition(".")[2]
    if not pid.isdigit():
        return False
    if int(pid) == os.getpid():  # in containers numbers come again
        return path not in _writing
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _umask() -> int:
    """The permissions that new files of this process lack (reading it means setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory against other processes; the system frees it, too, when this one is killed.

    Raises:
        ValueError: another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is working in {directory}: wait until it ends, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> str:
    """Rows as CSV. Text that a spreadsheet would take for a formula (=, +, -, @ in front) gets an apostrophe.

    What cannot be printed, such as an end of line, is written out.
    """
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(columns or [*rows, {}][0]), lineterminator="\n")
    table.writeheader()
    table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = printable(value)
    if value[:1] in ("=", "+", "-", "@"):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


# --- reading --------------------------------------------------------------------------------------------------------


def read_text(path: str | Path, what: str) -> str:
    """The text of a file that is `what`, such as "a recipe".

    Raises:
        ValueError: no such file, no regular one (a pipe would be waited for), larger than 16 MB, or not UTF-8.
    """
    path = regular_file(path, what)
    if (size := path.stat().st_size) > MOST:
        raise ValueError(f"{path} has {size:,} bytes: too many for {what}, which has at most {MOST:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {what}: no UTF-8 text ({error})") from None


def regular_file(path: str | Path, what: str) -> Path:
    """The path of a file that is there and is neither a directory, nor a pipe, nor a device."""
    path = as_path(path, what)
    try:
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or with a zero in it
        raise ValueError(f"{str(path)!r} cannot be {what}: {error}") from None
    kind = "a directory" if path.is_dir() else "no regular file"
    noun = what.removeprefix("a ").removeprefix("an ")
    raise ValueError(f"{path} is {kind}, not {what}" if there else f"there is no {noun} {path}{_near(path)}")


def as_path(path: Any, what: str) -> Path:
    """The path of what should be `what`; a ValueError where it is none."""
    return Path(of_kind("path", path, (str, os.PathLike), f"the path of {what}"))


def _near(path: Path) -> str:
    """What a file that is not there may be called, of those beside it."""
    try:
        near = nearest(path.name, (entry.name for entry in os.scandir(path.parent)), cutoff=0.7)
    except OSError:
        return ""
    return f"; did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""


def read_json(path: str | Path, what: str) -> Any:
    """What a file of JSON holds; NaN and infinity, which are not JSON, and keys that come twice are refused."""
    return parse_json(read_text(path, what), f"{path} is not {what}")


def parse_json(text: str, fault: str) -> Any:
    """What JSON says; `fault` is the beginning of the error where it is none."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{fault}: {error}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} comes twice")
    return found


def read_yaml(path: str | Path, what: str) -> Any:
    """What a file of YAML holds."""
    return parse_yaml(read_text(path, what), f"{path} is not {what}")


def parse_yaml(text: str, fault: str) -> Any:
    """What YAML says, without aliases, tags and repeated keys; `fault` is the beginning of the error."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        raise ValueError(f"{fault}: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Plain values, and no trick: what a few bytes say stays small."""

    def __init__(self, text: str):
        super().__init__(text)
        self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor}: write it out", event.start_mark)
        self.nodes += 1
        if self.nodes > NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {NODES:,} values", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # 1e-3, which YAML 1.1 takes for text
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_rows(
    path: str | Path, numbers: Iterable[str], texts: Iterable[str] = (), *, more: bool = False
) -> list[dict[str, Any]]:
    """Rows of a CSV file whose columns are `numbers`, finite, and `texts`; none where there is no such file.

    more: further columns may be there, of numbers as well.
    """
    path = Path(path)
    if not path.exists():
        return []
    numbers, texts = list(numbers), list(texts)
    found: list[dict[str, Any]] = []
    try:
        table = csv.DictReader(io.StringIO(read_text(path, "a table")), strict=True)
        found_there = table.fieldnames or []
        numbers += [name for name in found_there if more and name not in (*numbers, *texts)]
        if sorted(found_there) != sorted([*numbers, *texts]):
            raise ValueError(f"its columns are {found_there}")
        for row in table:
            if None in row or None in row.values():
                raise ValueError(f"line {table.line_num} has more or fewer cells than there are columns")
            values = {name: float(row[name]) for name in numbers}
            for name, value in values.items():
                if value - value:
                    raise wrong(name, value, "a finite number")
            found.append(values | {name: row[name] for name in texts})
    except (TypeError, ValueError, csv.Error) as error:
        columns = ", ".join([*numbers, *texts])
        raise ValueError(f"{path} is broken, not a table of {columns}: {error}") from None
    return found


def sha256(path: str | Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def check_zip(path: Path, what: str) -> None:
    """Refuses a zip file, as torch.save makes them, with a part whose checksum is wrong."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{path} is truncated, or not {what}: {error}") from None
    if bad is not None:
        raise ValueError(f"{path} is damaged: the checksum of {bad!r} in it is wrong")
