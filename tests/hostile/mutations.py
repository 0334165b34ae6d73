"""Random damage, from a fixed seed: to plain values (JSON, YAML), to text, to bytes. And what became of a reader.

A reader may refuse (ValueError, OSError) or accept; a traceback of another kind, more than 5 seconds or more than 1 GB
are faults.
"""

import copy
import json
import os
import pickle
import random
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SECONDS, BYTES = 5, 2**30

SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 1000, 10**9, -(10**9), 2**31, 2**63, 10**30),
    *(0.0, -0.0, 0.5, 1.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "x",
        "1",
        "1e3",
        "nan",
        "none",
        "relu",
        "lif",
        "sum",
        "../../etc/passwd",
        "/dev/zero",
        "a\0b",
        "\x1b[31m",
        "[/b]",
    ),
    *("=1+1", "é", "x" * 5000, "\u202e", "{}", "!!python/object:os.system", "*a", "&a [*a]"),
]


def hostile(rng: random.Random) -> Any:
    """A value that nobody asked for."""
    value = rng.choice(SCALARS)
    return rng.choice([value, value, value, [], {}, [value], {"x": value}, [value] * 40, {"x": {"x": {"x": value}}}])


def paths(plain: Any, path: tuple = ()) -> Iterator[tuple]:
    """The place of every value inside."""
    inside = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from paths(value, (*path, key))


def changed(plain: Any, rng: random.Random) -> Any:
    """A copy with one to three values changed, dropped, doubled, renamed or moved."""
    plain = copy.deepcopy(plain)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(paths(plain))
        if not places:
            return hostile(rng)
        *above, key = rng.choice(places)
        inside = plain
        for step in above:
            inside = inside[step]
        value, way = inside[key], rng.randrange(9)
        if way == 0:
            del inside[key]
        elif way == 1 and isinstance(inside, dict):
            inside[rng.choice([f"{key}x", str(key)[:-1], "x", str(key).upper(), 3, None])] = inside.pop(key)
        elif way == 1:
            inside.insert(rng.randrange(len(inside) + 1), copy.deepcopy(value))
        elif way == 2 and isinstance(value, (int, float)):
            inside[key] = rng.choice(
                [-value, value * 1000, value * 10**8, value + 1, value / 3, str(value), [value], -1]
            )
        elif way == 2 and isinstance(value, str):
            inside[key] = rng.choice([value[:-1], value + "x", value.upper(), value * 500, 3, value.encode().hex()])
        elif way == 2 and isinstance(value, list):
            rng.shuffle(value) if rng.random() < 0.5 else value.extend(value * rng.choice((1, 50)))
        elif way == 3 and isinstance(inside, list):
            rng.shuffle(inside)
        elif way == 4:
            other = rng.choice(places)
            found = plain
            for step in other:
                found = found[step] if isinstance(found, (dict, list)) and _has(found, step) else None
            inside[key] = copy.deepcopy(found)
        else:
            inside[key] = hostile(rng)
    return plain


def _has(inside: Any, step: Any) -> bool:
    return step in inside if isinstance(inside, dict) else isinstance(step, int) and step < len(inside)


WORDS = [
    *("&a ", "*a", "!!python/object/apply:os.system [x]", "<<: ", "? ", "- ", ": ", "{", "}", "[" * 500, "\t", "\0"),
    *('"', "'", "9" * 5000, "\ufeff", "\x85", "---\n", "%YAML 9.9\n", ".nan", "1e999", "0x", "2024-13-45", "\r", "|"),
    *(">", "@", "`", "#"),
]


def scrambled(text: str, rng: random.Random) -> bytes:
    """A text with something inserted, cut out, doubled, or with bytes changed."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice((1, 2, 5, 40)))
        word = rng.choice(WORDS)
        text = rng.choice([text[:at] + word + text[at:], text[:at] + text[to:], text[:to] + text[at:], text[:at]])
    return flipped(text.encode(), rng) if rng.random() < 0.3 else text.encode(errors="surrogateescape")


def flipped(content: bytes, rng: random.Random, most: int = 4) -> bytes:
    """Bytes of which a few bits are others, or of which an end or a piece is gone."""
    found = bytearray(content or b"\0")
    way = rng.randrange(8)
    if way == 0:
        return bytes(found[: rng.randrange(len(found))])
    if way == 1:
        at = rng.randrange(len(found))
        del found[at : at + rng.choice((1, 8, 512))]
        return bytes(found)
    if way == 2:
        at = rng.randrange(len(found))
        found[at:at] = rng.randbytes(rng.choice((1, 8, 512)))
        return bytes(found)
    for _ in range(rng.randrange(1, most + 1)):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


# --- what became of it -----------------------------------------------------------------------------------------------


class Hang(BaseException):
    """More than SECONDS."""


def _alarm(*_: Any) -> None:
    raise Hang


def outcome(read: Callable[[], str]) -> str:
    """What a reader did: what it returns, "refused", or a fault with its name in capitals."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return read()
    except Hang:
        return "HANG"
    except MemoryError:
        return "MEMORY"
    except (ValueError, OSError) as error:
        if "allocate memory" in str(error):
            return "MEMORY"
        return "refused" if str(error).strip() else "WITHOUT WORDS"
    except Exception as error:
        if "allocate memory" in str(error):
            return "MEMORY"
        return f"TRACEBACK {type(error).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def outcomes(cases: Iterable[tuple[Any, Callable[[], str]]], failures: list | None = None) -> Counter[str]:
    """How often each outcome occurs, in a process that may take BYTES more than it has; `failures` get the faults."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with open("/proc/self/statm") as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
            found: list[tuple[str, str]] = []
            for what, read in cases:
                result = outcome(read)
                found.append((result, repr(what)[:2000] if is_fault(result) else ""))
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(found, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        return Counter({f"CRASH {status}": 1})
    found = pickle.loads(content)
    if failures is not None:
        failures += [(result, what) for result, what in found if is_fault(result)]
    return Counter(result for result, _ in found)


def is_fault(result: str) -> bool:
    """Whether an outcome is one that must not be."""
    return "fault: " in result or result.split()[0].isupper()


def as_json(plain: Any) -> str:
    """JSON, also of what JSON has no word for."""
    return json.dumps(plain, default=str)
