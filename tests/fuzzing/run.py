"""A long run: ``PYTHONPATH=tests python -m fuzzing.run READER [READER ...] --minutes 10 --seed 1``.

Prints how many examples each reader had and what was found; the input of the first fault of each
kind is kept below ``--keep``. ``--number N --examples 1`` with the same seed makes one again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fuzzing.campaign import Readers, fuzz
from fuzzing.readers import READERS


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz readers of files from outside.")
    parser.add_argument("readers", nargs="+", choices=[*READERS, "all"], metavar="READER")
    parser.add_argument("--minutes", type=float, help="for each reader")
    parser.add_argument("--examples", type=int, help="for each reader, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=0, help="of the first example")
    parser.add_argument("--keep", type=Path, default=Path("fuzzing"), help="folder for inputs")
    options = parser.parse_args()
    if options.minutes is None and options.examples is None:
        parser.error("say --minutes or --examples")
    found = 0
    numbers = range(options.number, options.number + (options.examples or 10**9))
    with Readers() as readers:
        for name in READERS if "all" in options.readers else options.readers:
            began = time.monotonic()
            tally = fuzz(readers, name, options.seed, numbers, options.minutes, options.keep)
            minutes = (time.monotonic() - began) / 60
            print(
                f"{name}: {tally.examples} examples in {minutes:.1f} min, {tally.read} read,"
                f" {tally.refused} refused, the slowest {tally.slowest:.2f} s,"
                f" kinds of faults: {len(tally.faults)}",
                flush=True,
            )
            for what, (number, _) in tally.faults.items():
                print(f"  {tally.times[what]} times, first in {number}: {what}", flush=True)
            found += len(tally.faults)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
