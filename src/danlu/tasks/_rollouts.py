"""Rollouts: a policy answers prompts, reward functions judge the answers, and each answer is set against its group."""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from danlu.core.batch import IGNORED, Batch
from danlu.core.errors import RequestError, RunError
from danlu.core.outputs import Call
from danlu.maths.policy_gradient import group_advantages, group_spread
from danlu.models.forward import Forward
from danlu.models.writing import Writing, Written, write_texts
from danlu.tasks._own_metrics import own_metrics

ROWS_AT_ONCE = 64
SHOWN_CHARACTERS = 60


class Rewards:
    """Reward functions by name, each with a weight.

    A function is called by keywords with those of these that it takes: `completions` and `prompts`, lists as long as
    there are completions, and the columns of the data, each such a list. It returns as many numbers.

    Raises (when made):
        RequestError: a function is not there, or there are not as many weights as functions.
    """

    def __init__(self, asked: Sequence[str], weights: Sequence[float]) -> None:
        if not asked:
            mend = "Name functions of yours: task.rewards: [module:function]"
            raise RequestError("there is no reward function", where="task.rewards", mend=mend)
        if weights and len(weights) != len(asked):
            problem = f"there are {len(asked)} rewards and {len(weights)} weights"
            raise RequestError(problem, where="task.reward_weights", mend="Give one for each")
        found = [own_metrics([entry], where="task.rewards").popitem() for entry in asked]
        names = [name for name, _ in found]
        self.functions = {
            name if names.count(name) == 1 else entry.replace(":", "."): function
            for entry, (name, function) in zip(asked, found, strict=True)
        }
        self.weights = tuple(weights) or (1.0,) * len(asked)

    def __call__(self, completions: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """(B, F): what each function gives for each completion.

        Raises:
            RunError: a function fails, wants what is not there, or gives something else than numbers.
        """
        columns = {name: [row["columns"].get(name) for row in rows] for name in rows[0]["columns"]}
        given = {**columns, "prompts": [row["prompt"] for row in rows], "completions": list(completions)}
        return torch.tensor([self._numbers(name, given) for name in self.functions], dtype=torch.float32).T

    def try_out(self, row: Mapping[str, Any]) -> None:
        """Calls each once with two empty completions of one prompt, so that a wrong one is known before the start.

        Raises:
            RequestError: as a RunError would be later.
        """
        try:
            self(["", ""], [row, row])
        except RunError as error:
            raise RequestError(error.problem, where=error.where, mend=error.mend) from error

    def _numbers(self, name: str, given: Mapping[str, list[Any]]) -> list[float]:
        function, completions = self.functions[name], given["completions"]
        taken = _taken(name, function, given)
        try:
            values = list(function(**taken))
        except Exception as error:
            raise _refusal(f"{name} raised {type(error).__name__}: {error}", "Mend the function") from error
        if len(values) != len(completions):
            problem = f"{name} gave {len(values)} values for {len(completions)} completions"
            raise _refusal(problem, "Return one number for each completion")
        numbers: list[float] = []
        for value, completion in zip(values, completions, strict=True):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                problem = f"{name} gave {value!r} for {completion[:SHOWN_CHARACTERS]!r}"
                raise _refusal(problem, "Return a finite number for every completion")
            numbers.append(number)
        return numbers


def rolled_out(
    call: Call, tokenizer: Any, batch: Batch, writing: Writing, rewards: Rewards, *, group: int, scaled: bool
) -> Batch:
    """The batch with answers: `input_ids` (B, T) of prompt and answer, and as labels `tokens` (B, T), aligned to what
    predicts them, -100 outside the answers; `rewards` (B, F), `reward`, `spread` of the group, `advantages`, `ended`.

    Copy g of example i draws from numbers of its own. Rows of no weight get empty answers.
    """
    ids, rows = (
        _prompts(batch),
        [json.loads(bytes(row.tolist())) for row in cast("tuple[Tensor, ...]", batch.labels["row"])],
    )
    alive = [at for at in range(batch.num_rows) if batch.weights_B is None or float(batch.weights_B[at]) != 0]
    copies = cast(Tensor, batch.labels["copy"]).tolist()
    numbers = [example * group + copy for example, copy in zip(batch.example_ids_B.tolist(), copies, strict=True)]
    written = write_texts(
        cast(Forward, call).model,
        tokenizer,
        [ids[at] for at in alive],
        writing,
        numbers=[numbers[at] for at in alive],
        batch_rows=ROWS_AT_ONCE,
    )
    answers = [_Answer([], "", False)] * batch.num_rows
    values_BF = torch.zeros(batch.num_rows, len(rewards.functions))
    if alive:
        values_BF[alive] = rewards([answer.text for answer in written], [rows[at] for at in alive])
    for at, one in zip(alive, written, strict=True):
        answers[at] = _Answer.of(one)
    total_B = values_BF @ torch.tensor(rewards.weights)
    advantages_B, spread_B = torch.zeros(batch.num_rows), torch.zeros(batch.num_rows)
    for start, stop in _groups(batch):
        own_1N = total_B[None, start:stop]
        advantages_B[start:stop] = group_advantages(own_1N, scaled=scaled)[0]
        spread_B[start:stop] = group_spread(own_1N)
    labels = {"rewards": values_BF, "reward": total_B, "advantages": advantages_B, "spread": spread_B}
    labels["ended"] = torch.tensor([answer.ended for answer in answers])
    return _answered(batch, ids, [answer.ids for answer in answers], labels)


def rehearsed(batch: Batch, *, max_tokens: int, num_rewards: int) -> Batch:
    """The batch as long as answers can make it: what takes the most memory."""
    zeros_B = torch.zeros(batch.num_rows)
    labels = dict.fromkeys(("reward", "spread"), zeros_B) | {"advantages": zeros_B + 1, "ended": zeros_B == 0}
    labels["rewards"] = torch.zeros(batch.num_rows, num_rewards)
    return _answered(batch, _prompts(batch), [[0] * max_tokens] * batch.num_rows, labels)


class _Answer(NamedTuple):
    ids: list[int]
    text: str
    ended: bool

    @classmethod
    def of(cls, one: Written) -> "_Answer":
        """With the token that ends it: to stop is learnt too."""
        return cls([*one.ids, *([] if one.end is None else [one.end])], one.text, one.finish == "end")


def _prompts(batch: Batch) -> list[list[int]]:
    lengths = cast(Tensor, batch.labels["prompt_tokens"]).tolist()
    ids_BT = cast(Tensor, batch.inputs["input_ids"])
    return [ids_T[: max(length, 1)].tolist() for ids_T, length in zip(ids_BT, lengths, strict=True)]


def _groups(batch: Batch) -> list[tuple[int, int]]:
    """Where the copies of one example begin and end."""
    ids = batch.example_ids_B.tolist()
    starts = [at for at in range(len(ids)) if at == 0 or ids[at] != ids[at - 1]]
    return list(zip(starts, [*starts[1:], len(ids)], strict=True))


def _answered(batch: Batch, prompts: list[list[int]], answers: list[list[int]], labels: dict[str, Tensor]) -> Batch:
    device = batch.example_ids_B.device
    lengths_B = torch.tensor([len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)])
    ids_BT = torch.zeros(len(prompts), int(lengths_B.max()), dtype=torch.int64)
    tokens_BT = torch.full_like(ids_BT, IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = torch.tensor([*prompt, *answer])
        ids_BT[row, : len(whole)] = whole
        tokens_BT[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return batch.replace(
        inputs={"input_ids": ids_BT.to(device)},
        labels={"tokens": tokens_BT.to(device), **{name: value.to(device) for name, value in labels.items()}},
        tokens_B=lengths_B.to(device) * (batch.tokens_B != 0),
    )


def _taken(name: str, function: Any, given: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return dict(given)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        wanted = set(given)
    else:
        wanted = {one.name for one in parameters}
    missing = [
        one.name for one in parameters if one.default is one.empty and one.kind in _NAMED and one.name not in given
    ]
    if missing:
        mend = f"There are completions, prompts and the data's columns: {', '.join(sorted(given))}"
        raise _refusal(f"{name} wants {missing[0]!r}, which is not there", mend)
    return {key: value for key, value in given.items() if key in wanted}


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _refusal(problem: str, mend: str) -> RunError:
    return RunError(problem, where="task.rewards", mend=mend)
