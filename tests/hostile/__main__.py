"""Runs every campaign in full and prints what became of its cases; ends with 1 where there is a fault.

python -m tests.hostile [SHARE] [NAME …]
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module

from tests.hostile.mutations import is_fault

CAMPAIGNS = {  # what is damaged: where, and how many cases in full
    "recipes": ("recipes.campaign", 8000),
    "checkpoints": ("checkpoints.campaign", 5000),
    "originals": ("checkpoints.originals", 3000),
    "resume files": ("resume_files.campaign", 1000),
    "images": ("images.campaign", 3000),
    "files of runs": ("files_of_runs.campaign", 2000),
}


def load(place: str) -> Callable:
    """The function of that name."""
    module, _, name = place.partition(".")
    return getattr(import_module(f"tests.hostile.{module}"), name)


def main(share: float = 1.0, *names: str) -> int:
    """Runs them, or those of these names."""
    faults = 0
    for name in names or CAMPAIGNS:
        place, count = CAMPAIGNS[name]
        failures: list = []
        started = time.monotonic()
        found = load(place)(max(1, round(count * share)), seed=0, failures=failures)
        seconds = time.monotonic() - started
        print(f"{name}: {sum(found.values()):,} cases, {seconds:.0f} s")
        for outcome, times in found.most_common():
            print(f"  {times:6,}  {outcome}")
        for outcome, what in failures[:10]:
            print(f"  {outcome}: {what[:400]}")
        faults += sum(times for outcome, times in found.items() if is_fault(outcome))
    print(f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    share, *names = sys.argv[1:] or ["1"]
    sys.exit(main(float(share), *names))
