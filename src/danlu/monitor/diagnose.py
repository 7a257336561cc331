"""Diagnoser: asks every diagnosis after each reading, and tells a finding once, not at every line."""

from collections.abc import Iterable, Mapping

from danlu.core.finding import Evaluation, Finding, Readings
from danlu.core.journal import Record, number
from danlu.monitor.findings.base import Diagnosis, History, all_diagnoses, told


class Diagnoser:
    """Keeps a run's history and reports what is newly wrong.

    A finding is new when nothing of its name was found in the last `quiet` rounds. Its memory follows from the
    journal (`replay`), so that a resumed run tells nothing twice. `standing` is all that was found in the last round,
    new or not: what controllers go by.
    """

    def __init__(self, diagnoses: Iterable[Diagnosis] | None = None, *, quiet: int = 10) -> None:
        self.diagnoses = all_diagnoses() if diagnoses is None else list(diagnoses)
        self.history = History()
        self.quiet = quiet
        self.standing: list[Finding] = []
        self._round = 0
        self._found_at: dict[str, int] = {}

    def hear(self, news: Readings | Evaluation) -> list[Finding]:
        """Takes in a reading or an evaluation; returns the new findings, the most serious first."""
        if isinstance(news, Readings):
            self.history.add(news)
        else:
            self.history.add_evaluation(news)
        self._round += 1
        found = [finding for diagnosis in self.diagnoses for finding in diagnosis.diagnose(self.history)]
        new = [finding for finding in found if self._is_new(_key(finding))]
        self._found_at.update((_key(finding), self._round) for finding in found)
        self.standing = sorted(found, key=lambda finding: _SEVERITY[finding.severity])
        return [finding for finding in self.standing if finding in new]

    def forget_after(self, step: int) -> None:
        """Leaves out what was read after a step to which the run has gone back."""
        self.history.forget_after(step)

    def replay(self, records: Iterable[Record]) -> list[Finding]:
        """Hears the readings and evaluations of a journal again; returns what was found on the way."""
        found: list[Finding] = []
        for record in records:
            if record.get("back_to") is not None:
                self.forget_after(int(number(record["back_to"])))
            if record["kind"] in ("reading", "evaluation"):
                found += self.hear(told(record))
        return found

    def _is_new(self, name: str) -> bool:
        at = self._found_at.get(name)
        return at is None or self._round - at > self.quiet


def _key(finding: Finding) -> str:
    """What has become serious is worth telling once more."""
    return finding.name + ("!" if finding.severity == "serious" else "")


_SEVERITY: Mapping[str, int] = {"serious": 0, "warning": 1, "note": 2}
