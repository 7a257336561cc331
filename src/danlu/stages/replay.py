"""Replay: the journal's readings once more through diagnosis and control; the same journal gives the same decisions."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from danlu.control.policy import Policy, Verdict
from danlu.core.action import Branch, action_record, read_action
from danlu.core.clock import Budget, Clock
from danlu.core.errors import RequestError
from danlu.core.journal import Record, number
from danlu.monitor.diagnose import Diagnoser
from danlu.monitor.findings.base import told
from danlu.stages.report.records import load_run, part

Line = tuple[int, str, str]
"""(step, kind, what was said)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replayed:
    """How many findings, actions and verdicts there were, and where the two accounts differ.

    `only_in_journal` were made by the run and not again, `only_again` the other way round.
    """

    counts: dict[str, int]
    only_in_journal: list[Line]
    only_again: list[Line]

    @property
    def same(self) -> bool:
        return not (self.only_in_journal or self.only_again)


def replay(run: Path) -> Replayed:
    """Recomputes findings, decisions and verdicts of a run from its readings, evaluations and forks.

    What rests on single steps or on the machine is taken from the journal as it is: skipped steps, halved
    micro-batches, and how forks ended.

    Raises:
        RequestError: there is no journal, or it was written before dials were journalled.
    """
    known = load_run(run)
    policy = Policy(str(known.recipe.get("control", "auto")))  # type: ignore[arg-type]
    mine = {member.name() for member in policy.members} - {"skip_step"}
    written = collections.Counter(_lines_of(known.records, mine))
    again = collections.Counter(_again(known.records, known.start, policy))
    counts = collections.Counter(kind for _, kind, _ in again.elements())
    return Replayed(
        counts={kind: counts[kind] for kind in ("finding", "action", "verdict")},
        only_in_journal=sorted((written - again).elements()),
        only_again=sorted((again - written).elements()),
    )


def _lines_of(records: Iterable[Record], mine: set[str]) -> Iterator[Line]:
    for record in records:
        step, kind = int(number(record["step"])), str(record["kind"])
        if kind == "finding":
            yield step, kind, f"{record['name']}: {record['sentence']}"
        elif kind == "action" and record["by"] in mine:
            # a refusal is the machine's word, not the policy's: wanted it was all the same
            yield step, kind, _action_line(part(record, "action"), bool(record["applied"]) or "refused" in record)
        elif kind == "verdict" and record.get("action") != "Branch":
            yield step, kind, f"{record['by']} at step {record['about']}: {record['sentence']}"


def _action_line(action: object, applied: bool) -> str:
    assert isinstance(action, dict)
    fields = ", ".join(f"{name} {value}" for name, value in action.items() if name != "name")
    return f"{action['name']} ({fields})" + ("" if applied else ", suggested")


def _again(records: Iterable[Record], start: object, policy: Policy) -> Iterator[Line]:
    assert isinstance(start, dict)
    budget, diagnoser = Budget.model_validate(start["budget"]), Diagnoser()
    fork: Branch | None = None
    for record in records:
        step = int(number(record["step"]))
        if record.get("back_to") is not None:
            diagnoser.forget_after(int(number(record["back_to"])))
        if record["kind"] == "action" and part(record, "action").get("name") == "Branch" and record["applied"]:
            fork = read_action(part(record, "action"))  # type: ignore[assignment]
        if record["kind"] == "verdict" and record.get("action") == "Branch" and fork is not None:
            policy.settle(fork, record["choice"])  # type: ignore[arg-type]
        if record["kind"] not in ("reading", "evaluation"):
            continue
        for finding in diagnoser.hear(told(record)):
            yield finding.step, "finding", f"{finding.name}: {finding.sentence}"
        dials = {name: number(value) for name, value in part(record, "dials").items()}
        if not dials:
            raise RequestError("this journal does not hold the dials", mend="Replay a run of this version of danlu")
        clock = Clock(budget=budget).load({**record, **part(record, "clock")})  # type: ignore[dict-item]
        for item in policy.answer(diagnoser.standing, clock, dials, diagnoser.history):
            if isinstance(item, Verdict):
                yield step, "verdict", f"{item.by} at step {item.about}: {item.sentence}"
            else:
                yield step, "action", _action_line(action_record(item.action), item.apply)
