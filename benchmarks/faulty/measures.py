"""What is measured: which faults hurt, how much of it was rescued, and how right the diagnoses were."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from scipy.stats import mannwhitneyu

from faulty.faults import FAULTS, Cell, Fault
from faulty.running import Outcome

ALPHA = 0.05
LEAST_HARM = 0.02
"""of what a healthy run gains over chance; with one seed, where no test can be made, twice as much"""
SOON_STEPS, STOP_STEPS = 10, 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one cell under one policy."""

    cell: Cell
    policy: str
    healthy: float
    faulty: float
    controlled: float
    p: float
    hurts: bool
    rescue: float
    met: bool
    why: str
    detected: float
    first_right: float
    worse: int
    runs: int
    compute: float


class Results:
    """All outcomes of a benchmark, asked by job."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.all = list(outcomes)
        self.healthy = [out for out in self.all if not out.job.fault and out.job.variation is None]
        self.varied = [out for out in self.all if out.job.variation is not None]

    def of(self, cell: Cell, policy: str) -> list[Outcome]:
        """Runs with the fault, by seed."""
        found = [
            out
            for out in self.all
            if (out.job.task, out.job.fault, out.job.policy, out.job.reference)
            == (cell.task, cell.fault, policy, False)
        ]
        return sorted(found, key=lambda out: out.job.seed)

    def reference(self, cell: Cell) -> list[Outcome]:
        """Runs of the healthy side, by seed: of the fault's own where it has one, else the task's."""
        own = [
            out for out in self.all if out.job.reference and (out.job.task, out.job.fault) == (cell.task, cell.fault)
        ]
        found = own or [out for out in self.healthy if out.job.task == cell.task and out.job.policy == "off"]
        return sorted(found, key=lambda out: out.job.seed)

    def verdict(self, cell: Cell, policy: str) -> Verdict | None:
        """None where the runs are missing."""
        faulty, healthy, controlled = self.of(cell, "off"), self.reference(cell), self.of(cell, policy)
        if not (faulty and healthy and controlled):
            return None
        h, f, c = (fmean(out.score for out in outs) for outs in (healthy, faulty, controlled))
        p, hurts = harm(healthy, faulty)
        rescue = (c - f) / (h - f) if hurts else math.nan
        fault = FAULTS[cell.fault]
        met, why = criterion(fault, rescue, healthy, controlled)
        spread = stdev(out.score for out in healthy) if len(healthy) > 1 else 0.0
        pairs = zip(controlled, faulty, strict=False)
        rescued = [out for out in controlled if hurts and out.status == "finished"]
        return Verdict(
            cell=cell,
            policy=policy,
            healthy=h,
            faulty=f,
            controlled=c,
            p=p,
            hurts=hurts,
            rescue=rescue,
            met=met,
            why=why,
            detected=fmean(bool(alarms(out, fault)) for out in controlled),
            first_right=fmean(_first_right(out, fault) for out in controlled),
            worse=sum(mine.score < its.score - max(2 * spread, 0.01) for mine, its in pairs),
            runs=len(controlled),
            compute=_compute(rescued, healthy),
        )


def harm(healthy: Sequence[Outcome], faulty: Sequence[Outcome]) -> tuple[float, bool]:
    """(p, whether the fault hurts): a one-sided Mann-Whitney U test of the scores at 5 %, and a loss of at least 2 % of
    what a healthy run gains over chance."""
    h, f = [out.score for out in healthy], [out.score for out in faulty]
    chance = chance_of(healthy[0])
    share = (fmean(h) - fmean(f)) / max(fmean(h) - chance, 1e-9)
    if min(len(h), len(f)) < 3:
        return math.nan, share > 2 * LEAST_HARM
    p = float(mannwhitneyu(f, h, alternative="less").pvalue)
    return p, p < ALPHA and share > LEAST_HARM


def chance_of(outcome: Outcome) -> float:
    from faulty.tasks import TASKS

    fault = FAULTS.get(outcome.job.fault)
    return TASKS[outcome.job.task].score({}, by_loss=fault is not None and fault.score == "loss")


def alarms(outcome: Outcome, fault: Fault | None = None) -> list[dict[str, Any]]:
    """Findings that are no mere notes, each name once, from the fault's first step on."""
    start = int(outcome.notes.get("from_step", 0)) if fault is not None else 0
    found: dict[str, dict[str, Any]] = {}
    for finding in outcome.findings:
        if finding["severity"] != "note" and finding["step"] >= start:
            found.setdefault(finding["name"], finding)
    return list(found.values())


def _first_right(outcome: Outcome, fault: Fault) -> bool:
    found = alarms(outcome, fault)
    return bool(found) and found[0]["name"] in fault.names


def criterion(
    fault: Fault, rescue: float, healthy: Sequence[Outcome], controlled: Sequence[Outcome]
) -> tuple[bool, str]:
    """(whether the row's criterion is met, in words). A fault that does not hurt has no R to reach."""
    parts: list[tuple[bool, str]] = []
    if fault.rescue is not None:
        known = not math.isnan(rescue)
        parts.append((not known or rescue >= fault.rescue, f"R {rescue:.2f}" if known else "does not hurt"))
    if fault.also:
        checks = [CHECKS[fault.also](fault, out, healthy) for out in controlled]
        share = fmean(ok for ok, _ in checks)
        parts.append((share >= 0.8, f"{share:.0%} {fault.also}: {checks[0][1]}"))
    return all(ok for ok, _ in parts), "; ".join(text for _, text in parts)


def named_ids(outcome: Outcome) -> set[int]:
    """Examples that a finding names or that were put in quarantine."""
    found: set[int] = set()
    for action in outcome.actions:
        found.update(action["action"].get("example_ids") or action.get("example_ids") or ())
    for finding in outcome.findings:
        found.update(finding.get("example_ids") or ())
    return found


def _ids(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    precision, recall = _overlap(outcome)
    return recall >= 0.9, f"recall {recall:.2f} precision {precision:.2f}"


def _noise(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    precision, recall = _overlap(outcome)
    return recall >= 0.9 and precision >= 0.65, f"recall {recall:.2f} precision {precision:.2f}"


def _overlap(outcome: Outcome) -> tuple[float, float]:
    bad, named = set(outcome.notes["bad_ids"]), named_ids(outcome)
    right = len(bad & named)
    return right / max(len(named), 1), right / max(len(bad), 1)


def _right(fault: Fault, outcome: Outcome) -> list[dict[str, Any]]:
    return [finding for finding in outcome.findings if finding["name"] in (*fault.names, *fault.signs)]


def _names_layer(outcome: Outcome, findings: Iterable[Mapping[str, Any]]) -> bool:
    layer = str(outcome.notes["layer"])
    return any(layer in f"{finding['sentence']} {finding['evidence']}" for finding in findings)


def _layer(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    named = _names_layer(outcome, _right(fault, outcome))
    return named, f"{outcome.notes['layer']} {'named' if named else 'not named'}"


def _stops(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    late = max((step for step in [int(f["step"]) for f in outcome.findings]), default=0)
    stopped = outcome.status == "failed" and outcome.steps - outcome.notes["from_step"] <= STOP_STEPS
    named = _names_layer(outcome, _right(fault, outcome))
    told = f"from step {outcome.notes['from_step']}, found by {late}, {outcome.steps} steps in all"
    return stopped and named, f"{told}, layer {'named' if named else 'not named'}"


def _soon(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    steps = [int(finding["step"]) for finding in outcome.findings if finding["name"] in fault.names]
    return bool(steps) and min(steps) <= SOON_STEPS, f"named at step {min(steps)}" if steps else "not named"


def _epoch(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    steps = [int(finding["step"]) for finding in outcome.findings if finding["name"] in fault.names]
    one = outcome.notes["steps_an_epoch"]
    return bool(steps) and min(steps) <= one, f"named at step {min(steps)} of {one}" if steps else "not named"


def _once(fault: Fault, outcome: Outcome, _healthy: Any) -> tuple[bool, str]:
    whole = outcome.status == "finished" and bool(outcome.notes.get("once_an_epoch"))
    return whole, "every example once an epoch" if whole else outcome.reason[:80]


def _throughput(fault: Fault, outcome: Outcome, healthy: Sequence[Outcome]) -> tuple[bool, str]:
    share = outcome.rate / max(median(out.rate for out in healthy), 1e-9)
    return share >= 0.9, f"{share:.0%} of the healthy examples a second"


def _whole(fault: Fault, outcome: Outcome, healthy: Sequence[Outcome]) -> tuple[bool, str]:
    """Where the engine itself mends it, nothing is hurt without control either: held against the healthy run."""
    twin = next(out for out in healthy if out.job.seed == outcome.job.seed)
    share = (outcome.score - chance_of(twin)) / max(twin.score - chance_of(twin), 1e-9)
    return outcome.status == "finished" and share >= 0.99, f"{share:.3f} of what the healthy run gains"


CHECKS: Mapping[str, Any] = {
    **{"ids": _ids, "noise": _noise, "layer": _layer, "stops": _stops, "soon": _soon, "epoch": _epoch},
    **{"once": _once, "throughput": _throughput, "whole": _whole},
}


def precision_of(outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """(right, all) diagnoses in faulty runs: a name counts once a run; right are causes and rightful signs."""
    right = total = 0
    for outcome in outcomes:
        fault = FAULTS[outcome.job.fault]
        names = [finding["name"] for finding in alarms(outcome, fault)]
        total += len(names)
        right += sum(name in (*fault.names, *fault.signs) for name in names)
    return right, total


def false_alarms(outcomes: Iterable[Outcome]) -> list[tuple[Outcome, dict[str, Any]]]:
    """Findings that are no mere notes, in healthy runs."""
    return [(outcome, finding) for outcome in outcomes for finding in alarms(outcome)]


def _compute(rescued: Sequence[Outcome], healthy: Sequence[Outcome]) -> float:
    """Rows computed on in training, branches and steps thrown away included, against a healthy run's."""
    if not rescued:
        return math.nan
    return fmean(out.rows for out in rescued) / fmean(out.rows for out in healthy)


def rescue_by_stopping(results: Results, cell: Cell) -> float:
    """R of SageMaker Debugger's rules: the run that nobody touched, as it was when the first rule stopped it."""
    faulty, healthy = results.of(cell, "off"), results.reference(cell)
    if not (faulty and healthy) or not harm(healthy, faulty)[1]:
        return math.nan
    h, f = (fmean(out.score for out in outs) for outs in (healthy, faulty))
    c = fmean(out.stops["score"] if out.stops else out.score for out in faulty)
    return (c - f) / (h - f)
