"""What a person sees of a run, made from the records of a journal."""

import io
import json

import pytest

from danlu.cli import live
from danlu.core import words
from danlu.core.journal import Record

BUDGET = {"steps": 100, "epochs": None, "tokens": None, "minutes": None}
ACTION = {"name": "SetDial", "dial": "lr", "number": 0.5, "because": "it is stuck", "expects": None}
RUN: list[Record] = [
    {"kind": "note", "step": 0, "text": "tokenising"},
    {
        "kind": "start",
        "step": 0,
        "time": 1.0,
        "name": "tiny",
        "parameters": 1234567,
        "trainable_parameters": 12345,
        "train_tokens": 5_000_000,
        "world_size": 2,
        "device": "cpu",
        "precision": "fp32",
        "micro_batch": 8,
        "budget": BUDGET,
    },
    {
        "kind": "reading",
        "step": 25,
        "time": 2.0,
        "values": {"loss": 3.25, "learning_rate": 1e-3, "tokens_per_second": 41234.0},
        "seconds": 30.0,
        "progress": 0.25,
    },
    {"kind": "evaluation", "step": 25, "time": 2.0, "metrics": {"loss": 3.1, "bits_per_byte": 1.5}, "best": True},
    {"kind": "finding", "step": 26, "time": 2.0, "name": "stuck", "severity": "warning", "sentence": "It is stuck."},
    {"kind": "action", "step": 26, "time": 2.0, "action": ACTION, "by": "policy"},
    {"kind": "sample", "step": 26, "time": 2.0, "prompt": "def ", "text": "f():\n    pass"},
    {"kind": "note", "step": 26, "time": 2.0, "text": "a row was skipped", "file": "a.csv", "row": 3},
    {"kind": "end", "step": 100, "time": 3.0, "status": "finished"},
]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = live.PlainLines()
    for record in RUN:
        lines.hear(record)
    assert capsys.readouterr().out.splitlines() == [
        "tokenising",
        "tiny started: 1.23M parameters, 12.3k of them trained · 5M tokens · cpu x 2 processes · fp32"
        " · 8 rows at a time",
        "step 25/100 · loss 3.2500 · 41.2k tokens/s · 1:30 left",
        "step 25: validation loss 3.1 · bits per byte 1.5 · the best so far",
        "step 26: warning: It is stuck.",
        "step 26: SetDial (dial lr, number 0.5), because it is stuck",
        "step 26: sample: def f(): pass",
        "a row was skipped (file a.csv, row 3)",
    ]


def test_plain_readings_come_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = live.PlainLines(every_seconds=1000)
    for _ in range(3):
        lines.hear(RUN[2])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_live_line_keeps_what_deserves_to_stay() -> None:
    from rich.console import Console

    screen = io.StringIO()
    with live.LiveLine(Console(file=screen, force_terminal=True, width=200)) as line:
        for record in RUN:
            line.hear(record)
        text = line.bar.tasks[0].fields["tail"]
    assert "loss 3.2500" in text
    assert "1:30 left" in text
    assert text.endswith("stuck")
    shown = screen.getvalue()
    assert "It is stuck." in shown
    assert "validation loss 3.1" in shown


def test_json_prints_the_journal_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with live.watching("json") as listeners:
        for record in RUN:
            for listener in listeners:
                listener(record)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == RUN[1:]


def test_quiet_and_other_processes_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with live.watching("quiet") as listeners:
        assert listeners == []
    monkeypatch.setenv("RANK", "1")
    for manner in ("plain", "live", "json"):
        with live.watching(manner) as listeners:  # type: ignore[arg-type]
            assert listeners == []


def test_numbers_as_a_person_reads_them() -> None:
    assert [words.count(value) for value in (0, 999, 1234, 999_999, 2.5e9)] == ["0", "999", "1.23k", "1M", "2.5G"]
    assert [words.duration(value) for value in (5, 75, 4000, 90061)] == ["0:05", "1:15", "1:06:40", "1 d 01:01"]
    assert [words.size(value) for value in (12, 2048, 1.5 * 2**30)] == ["12 bytes", "2.0 KiB", "1.5 GiB"]
