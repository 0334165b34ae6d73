"""Models that are not of this package: modules that are named to be imported, and entry points of plugins."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterable
from importlib import import_module, invalidate_caches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

GROUP = "spikevit.models"  # of entry points: NAME = "MODULE", which registers models as it is imported


def import_modules(names: Iterable[str], where: str) -> None:
    """Imports modules by name, those of the current directory too; `where` is what asks for them, for errors.

    Raises:
        ValueError: no such module, or one that is broken, with the line; or a file of that name here that an installed
            module hides.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{where} {name} must be the name of a module, such as {_module_name(name)}")
        here = str(Path.cwd())
        if not {here, ""} & set(sys.path):
            sys.path.append(here)
        invalidate_caches()
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _broken(where, name, error) from error
            if name.endswith(".py"):
                raise ValueError(f"{where} {name}: a module is named without .py: {where} {name[:-3]}") from None
            raise ValueError(f"{where} {name}: there is no module {name} in {here}, and none is installed") from None
        except (Exception, SystemExit) as error:
            raise _broken(where, name, error) from error
        _refuse_hidden(module, where, name)


def load_plugins() -> None:
    """Imports what installed packages offer as entry points of `spikevit.models`, once; a broken one is a warning."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except (Exception, SystemExit) as error:
            of = f" of {point.dist.name}" if point.dist else ""
            warnings.warn(f"models of the plugin {point.name}{of} ({point.value}) are not there: {_said(error)}")


_loaded = False


def _broken(where: str, name: str, error: BaseException) -> ValueError:
    return ValueError(f"{where} {name}: the module is broken at import: {_said(error)}")


def _said(error: BaseException) -> str:
    """An error and its line, in short."""
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
        error = SyntaxError(error.msg)
    elif frames := [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]:
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return f"{type(error).__name__}: {error}{place}"


def _module_name(path: str) -> str:
    """What "nets/my_model.py" is called when it is imported."""
    parts = Path(path).with_suffix("").parts if path.endswith(".py") else ()
    return ".".join(parts) if parts and all(p.isidentifier() for p in parts) else "my_module"


def _refuse_hidden(module: ModuleType, where: str, name: str) -> None:
    """A file here that is not what was imported, since another module has its name."""
    here, found = Path(f"{name.replace('.', '/')}.py"), getattr(module, "__file__", None)
    if here.is_file() and (found is None or not here.samefile(found)):
        raise ValueError(
            f"{where} {name}: {here} is hidden by another module of that name, {found or 'of Python itself'}; rename it"
        )
