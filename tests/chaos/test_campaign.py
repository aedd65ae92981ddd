"""A short campaign on one Valkey; `scripts/bench chaos` runs long ones, on every kind of Redis."""

import os
from pathlib import Path

from tests.chaos.campaign import campaign
from tests.chaos.faults import FAULTS, faults_for
from tests.chaos.site import KINDS

SEED = int(os.environ.get("CHAOS_SEED", "1"))
SHORT = 0.3, 1.5
DONE = (
    "kill -9 of a worker",
    "kill -9 of a gateway",
    "kill -9 of Redis",
    "accept and reset: services to Redis",
    "Redis full (OOM)",
    "SIGTERM to a worker",
)


def test_nothing_that_was_accepted_is_lost_doubled_or_failed(tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}")
    faults = [make for make in faults_for("one") if make().name in DONE]
    assert len(faults) == len(DONE)
    with campaign(tmp_path / "campaign", "one", SEED, RTEMBED_CLAIM_TIMEOUT="2") as (_, running):
        turns = running.shuffled(faults)
        for _ in faults:
            fault = next(turns)()
            fault.hold = SHORT
            trial = running.run(fault)
            print(trial.fault, trial.victim, f"recovery {trial.recovery} s")
            assert not trial.wrong, trial
            assert trial.requests > 0


def test_every_fault_has_a_name_of_its_own_and_a_site() -> None:
    names = [make().name for make in FAULTS]
    assert len(set(names)) == len(names)
    assert all(set(make().kinds) <= set(KINDS) and make().kinds for make in FAULTS)
