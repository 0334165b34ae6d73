"""What goes wrong in Python: while a model is made (`building`), and while it is used."""

from tests.mistakes import building, using

MISTAKES = building.MISTAKES + using.MISTAKES
