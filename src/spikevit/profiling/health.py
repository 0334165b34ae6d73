"""What is wrong with a network that its accuracy or cost alone would not tell: layers that never fire, and chance."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

SURE = 1.645  # standard deviations above chance, of which chance itself reaches 5 %


def silence(rates: Mapping[str, float], where: str = "on these images") -> str:
    """What to say where layers of neurons, of these firing rates by name, never fired; "" where all did."""
    silent = [name for name, rate in rates.items() if not rate]
    if not silent:
        return ""
    return (
        f"{len(silent)} of {len(rates)} layers of neurons are silent {where}, the first is {silent[0]}: this "
        "is not what a trained network would cost"
    )


def at_chance(right: int, total: int, chance: float) -> str:
    """What to say where so many right images may as well be luck; "" where accuracy is above chance.

    Who always names one class is right with probability `chance` c: at most that many of n images are luck,

        n·c + 1.645 · √(n · c · (1 − c))

    with a probability of 95 % (normal approximation).

    Args:
        chance: share of the most frequent class among the images.
    """
    if right > total * chance + SURE * sqrt(total * chance * (1 - chance)):
        return ""
    return (
        f"accuracy is at chance: {right} of {total} images are right, and {round(total * chance)} would be for one who "
        "always names their most frequent class"
    )
