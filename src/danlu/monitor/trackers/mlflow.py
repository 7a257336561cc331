"""MLflow."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from danlu.core.errors import RequestError
from danlu.core.extras import need
from danlu.core.journal import Record, number
from danlu.monitor.trackers.base import Follower, Tracker, flat, numbers_of, text_of

_MOST_PARAMS = 100
_LONGEST_VALUE = 500


class Mlflow(Tracker):
    """Writes to the server that MLFLOW_TRACKING_URI names, else to an SQLite file beside the runs.

    A resumed run goes on in the same MLflow run, whose number is kept in `mlflow.json` in the run's folder.
    """

    library: ClassVar[str] = "mlflow"

    uri: str | None = None
    """the tracking server, or a database; MLFLOW_TRACKING_URI when not given"""
    experiment: str = "danlu"
    """the experiment that the run belongs to"""

    def follow(self, *, folder: Path, name: str, recipe: Mapping[str, object]) -> Follower:
        mlflow = need("mlflow", extra="mlflow")
        beside = f"sqlite:///{(folder.resolve().parent / 'mlflow.db').as_posix()}"
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or beside
        try:
            client = mlflow.MlflowClient(tracking_uri=uri)
            return _Run(client, _run_id(client, self.experiment, name, folder), recipe)
        except (mlflow.exceptions.MlflowException, ModuleNotFoundError) as error:
            mend = "Check MLFLOW_TRACKING_URI, and that the whole of mlflow is installed: pip install 'danlu[mlflow]'"
            raise RequestError(f"MLflow at {uri} cannot be used: {error}", where="track", mend=mend) from error


def _run_id(client: Any, experiment: str, name: str, folder: Path) -> str:
    """The run that this folder's earlier part was written to, else a new one."""
    note = folder / "mlflow.json"
    if note.is_file():
        known: str = json.loads(note.read_text(encoding="utf-8"))["run_id"]
        client.update_run(known, status="RUNNING")
        return known
    found = client.get_experiment_by_name(experiment)
    number_of = found.experiment_id if found else client.create_experiment(experiment)
    run_id: str = client.create_run(number_of, run_name=name).info.run_id
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"run_id": run_id}), encoding="utf-8")
    return run_id


class _Run:
    def __init__(self, client: Any, run_id: str, recipe: Mapping[str, object]) -> None:
        entities = need("mlflow.entities", extra="mlflow")
        errors = need("mlflow.exceptions", extra="mlflow")
        self._client, self._run_id, self._metric = client, run_id, entities.Metric
        self._status = "KILLED"
        params = [entities.Param(key, str(value)[:_LONGEST_VALUE]) for key, value in flat(recipe).items()]
        for at in range(0, len(params), _MOST_PARAMS):
            # a resumed run may differ in a budget; MLflow lets no setting change, the first stands
            with contextlib.suppress(errors.MlflowException):
                client.log_batch(run_id, params=params[at : at + _MOST_PARAMS])

    def __call__(self, record: Record) -> None:
        step, at = int(number(record["step"])), int(number(record["time"]) * 1000)
        metrics = [
            self._metric(name.replace("@", "_at_"), value, at, step) for name, value in numbers_of(record).items()
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)
        text = text_of(record)
        if text is not None:
            self._client.set_tag(self._run_id, f"{text[0]}/{step}", text[1][:_LONGEST_VALUE])
        if record["kind"] == "end":
            self._status = {"finished": "FINISHED", "failed": "FAILED"}.get(str(record.get("status")), "KILLED")

    def close(self) -> None:
        self._client.set_terminated(self._run_id, status=self._status)
