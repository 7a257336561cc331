"""Trackers against the real libraries, as far as they are installed."""

import importlib
import importlib.util
import time

import pytest

from danlu.core.errors import RequestError
from danlu.core.journal import Journal
from danlu.monitor.trackers.base import flat, following, trackers

RECIPE = {"name": "tiny", "train": {"budget": {"steps": 3}, "optimizer": {"kind": "adamw", "lr": 1e-3}}, "track": ["x"]}


def _run(kind, folder, *, start=0, stop=3, resumed=None, status="finished"):
    """A run's journal, followed."""
    journal = Journal(folder / "journal.jsonl")
    with following(trackers([kind]), folder=folder, name="tiny", recipe=RECIPE) as followers:
        for follower in followers:
            journal.subscribe(follower)
        journal.write("start", start, **({} if resumed is None else {"resumed_from": resumed}))
        for step in range(start + 1, stop + 1):
            journal.write("reading", step, values={"loss": 10.0 / step, "update_ratio/layers.0": float("nan")})
        journal.write("evaluation", stop, metrics={"loss": 2.5}, judged="loss", better="lower", best=True)
        journal.write("sample", stop, prompt="def ", text="main():")
        journal.write("finding", stop, name="plateau", severity="note", sentence="It stays.", evidence={})
        journal.write("end", stop, status=status, reason="", seconds=1.0)
    journal.close()


def _needs(library):
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")


@_needs("tensorboard")
def test_tensorboard_holds_the_run_also_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _run("tensorboard", tmp_path, stop=3)
    _run("tensorboard", tmp_path, start=2, stop=5, resumed=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True).Reload()
    scalars = [(event.step, round(event.value, 4)) for event in events.Scalars("train/loss")]
    assert scalars == [(1, 10.0), (2, 5.0), (3, 3.3333), (4, 2.5), (5, 2.0)]
    assert [event.value for event in events.Scalars("valid/loss")][-1] == 2.5
    texts = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    assert texts == {"recipe", "sample", "finding/plateau"}


@_needs("mlflow")
@pytest.mark.parametrize(
    ("status", "expected"), [("finished", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")]
)
def test_mlflow_holds_the_run(tmp_path, monkeypatch, status, expected):
    import mlflow

    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _run("mlflow", tmp_path / "run", status="stopped")
    _run("mlflow", tmp_path / "run", start=3, stop=4, resumed=3, status=status)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("danlu").experiment_id])
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses == [(1, 10.0), (2, 5.0), (3, pytest.approx(10 / 3)), (4, 2.5)]
    assert run.data.params["train.optimizer.lr"] == "0.001"
    assert run.info.status == expected
    assert run.info.run_name == "tiny"


@_needs("wandb")
def test_wandb_writes_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    _run("wandb", tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    for _ in range(100):  # its own process may still be writing
        if b"train/loss" in file.read_bytes():
            break
        time.sleep(0.1)
    else:
        pytest.fail("nothing was written")


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_library_is_named_with_its_command(kind, monkeypatch):
    real = importlib.import_module

    def refuse(name, package=None):
        if name == kind:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(RequestError, match=rf"pip install 'danlu\[{kind}\]'"):
        trackers([kind])


def test_an_unknown_tracker_gets_the_nearest_name():
    with pytest.raises(RequestError, match="Did you mean 'tensorboard'"):
        trackers(["tensorbord"])


def test_a_recipe_is_laid_flat():
    assert flat(RECIPE)["train.budget.steps"] == 3
    assert flat(RECIPE)["track"] == "['x']"
