"""Measure every subject and keep its ratio: ``make baseline``, after a change that is meant.

Each ratio is the middle one of several interpreters': where objects lie in memory, and in which
order a dictionary keeps them, is drawn anew in each and stays for its life.
"""

import json
import statistics
import subprocess
import sys

from tests.benchmarks.gate import judged, store
from tests.benchmarks.subjects import SUBJECTS

_INTERPRETERS = 5
_ONE = "--one"


def one() -> dict[str, float]:
    """The ratios as this interpreter sees them."""
    findings = judged({name: subject.race for name, subject in SUBJECTS.items()}, {})
    return {name: finding.timing.ratio for name, finding in findings.items()}


def another() -> dict[str, float]:
    """The ratios as a new interpreter sees them."""
    command = [sys.executable, "-m", "tests.benchmarks.rewrite_baseline", _ONE]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    ratios: dict[str, float] = json.loads(answer.stdout)
    return ratios


def main() -> None:
    """Write the baseline and say what it is."""
    if _ONE in sys.argv:
        json.dump(one(), sys.stdout)
        return
    runs = [another() for _ in range(_INTERPRETERS)]
    ratios = {name: statistics.median(run[name] for run in runs) for name in SUBJECTS}
    store(ratios)
    for name, ratio in ratios.items():
        found = sorted(run[name] for run in runs)
        sys.stdout.write(f"{name:<42} {ratio:>8.4f}  spread {found[-1] / found[0] - 1:>6.1%}\n")


if __name__ == "__main__":
    main()
