"""Faults while clients ask: is anything lost, doubled or failed, and how long until all is well again?

scripts/bench chaos --minutes 30 --seed 7

Each kind of Redis gets its share of the minutes; with `--trials N` each fault is done N times instead. Prints
a JSON object per fault, then the table. Ends with status 1 if something accepted was lost, doubled or failed.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tests.chaos.campaign import Campaign, Trial, campaign, line
from tests.chaos.faults import Make, faults_for
from tests.chaos.site import KINDS, WAITING, Site

ALL = (*KINDS, f"pair{WAITING}", f"sentinel{WAITING}")


def chosen(kind: str, wanted: str) -> list[Make]:
    """The faults of this kind of site whose names match the pattern."""
    return [
        make
        for make in faults_for(kind.removesuffix(WAITING))
        if re.search(wanted, make().name, re.IGNORECASE)
    ]


def able(site: Site, faults: list[Make]) -> list[Make]:
    """Those of the faults that can be done here; the others are named, with the reason."""
    for make in faults:
        if why := make().lacks(site):
            print(json.dumps({"kind": site.kind, "skipped": make().name, "why": why}), flush=True)
    return [make for make in faults if not make().lacks(site)]


def trials(folder: Path, kind: str, args: argparse.Namespace, seconds: float) -> Iterator[Trial]:
    """Do the faults on one kind of site, for so many seconds or so many times."""
    with campaign(folder, kind, args.seed) as (site, running):
        faults = able(site, chosen(kind, args.fault))
        deadline = time.monotonic() + seconds
        turns = running.shuffled(faults)
        for make in islice(turns, args.trials * len(faults)) if args.trials else turns:
            if not args.trials and time.monotonic() > deadline:
                return
            yield _told(running, make)


def _told(running: Campaign, make: Make) -> Trial:
    fault = make()
    print(fault.name, file=sys.stderr, flush=True)
    trial = running.run(fault)
    print(json.dumps(line(trial)), flush=True)
    return trial


HEAD = (
    "fault",
    "Redis",
    "trials",
    "requests, chunks",
    "lost",
    "doubled",
    "failed",
    "recovery s, median (most)",
)


def table(done: list[Trial]) -> Iterator[str]:
    """Yield the lines of the table, a fault on a kind of Redis each."""
    rows: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in done:
        rows[trial.fault, trial.kind].append(trial)
    yield row(HEAD)
    yield row(["---"] * len(HEAD))
    for (fault, kind), same in sorted(rows.items()):
        took = [trial.recovery for trial in same if trial.recovery is not None]
        cells = [fault + ("\\*" if same[0].excused else ""), kind, str(len(same))]
        cells.append(f"{sum(trial.requests for trial in same)}, {sum(trial.chunks for trial in same)}")
        counted = ([getattr(trial.losses, what) for trial in same] for what in ("lost", "doubled", "failed"))
        cells.extend(str(sum(map(len, lists))) for lists in counted)
        cells.append(f"{statistics.median(took):.1f} ({max(took):.1f})" if len(took) == len(same) else "none")
        yield row(cells)


def row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Run; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--trials", type=int, default=0, help="of each fault, however long it takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=";".join(ALL), help="of Redis; default: %(default)s")
    parser.add_argument("--fault", default="", help="only faults whose names match this pattern")
    args = parser.parse_args()
    kinds = [kind for kind in args.kinds.split(";") if chosen(kind, args.fault)]
    print(json.dumps({"seed": args.seed}), flush=True)
    done: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="rt-embed-") as folder:
        for number, kind in enumerate(kinds):
            done += trials(Path(folder) / str(number), kind, args, args.minutes * 60 / len(kinds))
    print("\n".join(table(done)))
    print("\n\\* Nothing is promised: the new primary did not have the last writes.")
    repeated = sum(trial.losses.repeated for trial in done)
    print(f"Messages that Kafka has twice, with the same key and bytes: {repeated}.")
    return int(any(trial.wrong for trial in done if not trial.excused))


if __name__ == "__main__":
    sys.exit(main())
