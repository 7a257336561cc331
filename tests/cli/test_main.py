"""The command line: quick help, errors in one message, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.cli.main import main

TINY = """
task: text-generation
data:
  train: words.txt
  valid: 20%
  tokenizer: {train: bpe, size: 300}
  context: 16
model:
  design: {family: llama, layers: 1, width: 16, heads: 2}
train:
  budget: {steps: 4}
  batch: {tokens: 64}
  micro_batch: 4
  log_every: {steps: 1}
  samples: false
"""
HELP = """
import contextlib, io, sys
from danlu.cli.main import main
for words in (["--help"], *([name, "--help"] for name in {names})):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main(words)
    assert "Usage" in shown.getvalue(), words
heavy = {{"torch", "transformers", "numpy", "rich", "yaml"}} & set(sys.modules)
assert not heavy, heavy
"""
COMMANDS = [
    *("init", "inspect", "explain", "train", "tune", "study", "improve", "replay"),
    *("evaluate", "predict", "generate", "collect", "schema", "doctor"),
]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DANLU_DEBUG", raising=False)
    (tmp_path / "words.txt").write_text(
        "".join(f"the furnace burns at {n} degrees and the fire is steady\n" for n in range(400))
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return int(caught.value.code or 0)


def test_help_of_every_command_imports_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", HELP.format(names=COMMANDS)], check=True, timeout=60)


def test_the_commands_in_the_order_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in shown if line.startswith("  ")][: len(COMMANDS)] == COMMANDS


def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trian") == 2
    assert run("train") == 2
    assert run("train", "x.yaml", "--processes", "0") == 2
    assert "RECIPE" in capsys.readouterr().err.upper()


def test_a_wrong_request_is_one_message_and_writes_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tiny.parent.iterdir())
    assert run("train", "tiny.yaml", "train.batch.tokns=5", "data.context=x") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("danlu: tiny.yaml: 2 things are wrong.\n")
    assert "train.batch.tokns (on the command line): there is no such key. Did you mean 'tokens'." in told.err
    assert run("train", "tiny.yaml", "data.train=wrods.txt") == 2
    assert "Did you mean 'words.txt'" in capsys.readouterr().err
    assert [path for path in sorted(tiny.parent.iterdir()) if path.name != "cache"] == before


def test_a_bug_is_told_shortly_and_in_full_with_debug(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("no fire")

    monkeypatch.setattr("danlu.cli.training.load_recipe", broken)
    assert run("train", "tiny.yaml") == 1
    told = capsys.readouterr().err
    assert "danlu has a bug: ZeroDivisionError: no fire" in told
    assert len(told.splitlines()) == 2
    with pytest.raises(ZeroDivisionError):
        main(["train", "tiny.yaml", "--debug"])


def test_train_and_use_what_was_trained(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "tiny.yaml", "--out", "run", "--json") == 0
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("reading") == 4
    assert run("train", "run", "--resume", "train.budget.steps=6", "--quiet") == 0
    told = capsys.readouterr().out
    assert told.startswith("finished after 6 steps")
    assert "run/model" in told
    assert run("train", "tiny.yaml", "--out", "run") == 2
    assert "there is something in it already" in capsys.readouterr().err
    assert run("generate", "run", "the furnace", "--max-tokens", "5", "--seed", "3") == 0
    first = capsys.readouterr().out
    assert run("generate", "run", "the furnace", "--max-tokens", "5", "--seed", "3") == 0
    assert capsys.readouterr().out == first != "\n"
    assert run("evaluate", "run", "--data", "words.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"loss", "perplexity", "bits_per_byte"}
    assert run("predict", "run", "--input", "words.txt", "--out", "said.jsonl", "max_tokens=2") == 2
    (tiny.parent / "asked.jsonl").write_text('{"text": "the fire"}\n{"text": "the"}\n')
    assert run("predict", "run", "--input", "asked.jsonl", "--out", "said.jsonl", "max_tokens=2") == 0
    assert len((tiny.parent / "said.jsonl").read_text().splitlines()) == 2


def test_plain_lines_tell_the_story(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "tiny.yaml") == 0
    told = capsys.readouterr().out
    assert "tiny started: " in told
    assert "step 1/4 · loss" in told
    assert "validation loss" in told
    assert "finished after 4 steps" in told
    assert (tiny.parent / "runs" / "tiny" / "1" / "summary.json").exists()


def test_a_run_is_resumed_by_any_of_its_names(tiny: Path) -> None:
    from danlu.cli.training import read_request

    folder = tiny.parent / "runs" / "tiny" / "1"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(TINY + "name: tiny\n")
    ways = (
        read_request(str(folder), [], out=None, resume=True),
        read_request("tiny.yaml", [str(folder)], out=None, resume=True),
        read_request("tiny.yaml", [], out=folder, resume=True),
    )
    assert [way.out for way in ways] == [folder] * 3
    assert {way.recipe.name for way in ways} == {"tiny"}
    assert read_request("tiny.yaml", [], out=None, resume=True).out is None
    assert run("train", str(folder), "--out", "other", "--resume") == 2
    assert run("train", "tiny.yaml", str(folder)) == 2
