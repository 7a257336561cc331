"""ExampleBook: what a run has learnt of its single examples, from the losses of their rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.maths.statistics import MAD_TO_SIGMA

_SMALL = 1 << 18
_FIELDS = {"visits": np.int32, "p_sum": np.float64, "loss_sum": np.float64, "odd": np.float32, "label": np.int32}


class _Rows(NamedTuple):
    """A step's rows: ids, loss, targets, label (None: none), log rms of the input (None: texts)."""

    ids_B: Tensor
    losses_B: Tensor
    targets_B: Tensor
    labels_B: Tensor | None
    odd_B: Tensor | None

    def columns(self) -> list[Tensor]:
        """Ids, mean loss of a target, label or −1, input or 0."""
        mean_B = self.losses_B.detach() / self.targets_B.clamp(min=1)
        labels_B = torch.full_like(self.ids_B, -1) if self.labels_B is None else self.labels_B
        odd_B = torch.zeros_like(mean_B) if self.odd_B is None else self.odd_B
        return [part.to(torch.float64) for part in (self.ids_B, mean_B, labels_B, odd_B)]


class ExampleBook:
    """Keeps of each example seen: visits, sums of loss and of p = exp(−loss) from the second visit on, label, input.

    Rows stay on the device until `take`. Examples numbered `most` and above are not followed, so that the book of a
    huge set stays small: 28 bytes an example.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: list[_Rows] = []
        self._columns = {name: np.zeros(0, dtype=kind) for name, kind in _FIELDS.items()}
        self._table_4N = np.zeros((4, 0))
        self.rows, self.told_rows = 0, 0

    def add(self, batch: Batch, losses_B: Tensor) -> None:
        """Takes in this process's rows of a step."""
        classes = batch.labels.get("classes")
        single = isinstance(classes, Tensor) and classes.ndim == 1 and not classes.is_floating_point()
        floats = [x for x in batch.inputs.values() if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1]
        odd_B = _log_rms(floats[0]) if floats else None
        labels_B = classes if single and isinstance(classes, Tensor) else None
        self._waiting.append(_Rows(batch.example_ids_B, losses_B, batch.targets_B, labels_B, odd_B))

    def take(self) -> np.ndarray:
        """What waits, on the host: (4, N) ids, losses, labels, inputs. One wait for the device."""
        if self._waiting:
            columns = [rows.columns() for rows in self._waiting]
            self._waiting = []
            table_4N = torch.stack([torch.cat(parts) for parts in zip(*columns, strict=True)]).cpu().numpy()
            self._table_4N = np.concatenate([self._table_4N, table_4N], axis=1)
        table_4N, self._table_4N = self._table_4N, np.zeros((4, 0))
        return table_4N

    def enter(self, table_4N: np.ndarray) -> None:
        """Takes in rows on the host: ids, losses, labels, inputs."""
        table_4N = table_4N[:, (table_4N[0] >= 0) & (table_4N[0] < self.most)]
        ids_B, losses_B = table_4N[0].astype(np.int64), table_4N[1]
        if not len(ids_B):
            return
        self._grow(int(ids_B.max()) + 1)
        column = self._columns
        known_B = column["visits"][ids_B] > 0
        finite_B = np.where(np.isfinite(losses_B), losses_B, 50.0)
        np.add.at(column["p_sum"], ids_B[known_B], np.exp(-finite_B[known_B]))
        np.add.at(column["loss_sum"], ids_B[known_B], finite_B[known_B])
        np.add.at(column["visits"], ids_B, 1)
        column["label"][ids_B], column["odd"][ids_B] = table_4N[2], table_4N[3]
        self.rows += len(ids_B)

    @property
    def seen(self) -> np.ndarray:
        """Ids of the examples seen."""
        return np.flatnonzero(self._columns["visits"])

    def again(self, times: int) -> np.ndarray:
        """Ids of the examples seen at least so many times after the first."""
        return np.flatnonzero(self._columns["visits"] > times)

    def mean(self, name: str, ids: np.ndarray) -> np.ndarray:
        """`p` or `loss` of these examples, the mean over their visits after the first."""
        return self._columns[f"{name}_sum"][ids] / np.maximum(1, self._columns["visits"][ids] - 1)

    def column(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self._columns[name][ids]

    def state_dict(self) -> dict[str, object]:
        self._table_4N = self.take()
        counts = {"rows": self.rows, "told_rows": self.told_rows, "table": torch.from_numpy(self._table_4N.copy())}
        return counts | {name: torch.from_numpy(column.copy()) for name, column in self._columns.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._waiting, self.rows, self.told_rows = [], int(state["rows"]), int(state["told_rows"])
        self._table_4N = np.array(state["table"], dtype=np.float64)
        self._columns = {name: np.array(state[name]).astype(kind) for name, kind in _FIELDS.items()}

    def _grow(self, size: int) -> None:
        held = len(self._columns["visits"])
        if size <= held:
            return
        for name, column in self._columns.items():
            grown = np.zeros(min(self.most, max(size, 2 * held)), dtype=column.dtype)
            grown[:held] = column
            self._columns[name] = grown


def robust_scores(values_N: np.ndarray, *, floor: float) -> np.ndarray:
    """(x − median) / (1.4826 MAD + floor)."""
    middle = np.median(values_N)
    return (values_N - middle) / (MAD_TO_SIGMA * np.median(np.abs(values_N - middle)) + floor)


def _log_rms(values: Tensor) -> Tensor:
    flat = values.detach().flatten(1)
    stride = -(-flat.numel() // _SMALL)  # of a large picture a part will do
    return flat[:, ::stride].float().square().mean(1).clamp(min=1e-12).log() / 2
