"""Makes every mistake, and prints those that are answered poorly, and the share answered well.

python -m tests.mistakes [-a]      -a: all answers
"""

import sys

from tests.mistakes import command_line, in_python, on_recipes
from tests.mistakes.judge import answer_in_python, answer_on_the_command_line, judge, place

CAMPAIGNS = {
    "in Python": (answer_in_python, in_python.MISTAKES),
    "on the command line": (answer_on_the_command_line, command_line.MISTAKES + on_recipes.MISTAKES),
}


def main(every: bool = False) -> int:
    """1 where an answer is poor."""
    poor = total = 0
    with place() as here:
        for where, (answer, mistakes) in CAMPAIGNS.items():
            bad = 0
            for mistake in mistakes:
                said, fault = judge(answer, mistake, here)
                bad += bool(fault)
                if fault or every:
                    print(f"{mistake.name}\n    {mistake.done}\n    {fault or 'good'}\n    {said}")
            print(f"{where}: {len(mistakes) - bad} of {len(mistakes)} answered well")
            poor, total = poor + bad, total + len(mistakes)
    print(f"{1 - poor / total:.1%} of {total} mistakes answered well")
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main("-a" in sys.argv[1:]))
