"""Preference: pairs under DPO and ORPO, and completions with a verdict under KTO."""

import math
from pathlib import Path

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.tasks.preference import Preference

from .aligned import data_of, preference_rows, sum_of_log_probs, with_reference, write_rows
from .case import Case, make_case


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _made(folder: Path, **options: object) -> Case:
    rows = preference_rows()
    if options["objective"] == "kto":
        rows = [
            {"prompt": row["prompt"], "completion": row["rejected" if at % 3 else "chosen"], "label": not at % 3}
            for at, row in enumerate(rows)
        ]
    task = Preference(beta=0.2, reference="elsewhere", **options)

    def reference(outputs: Outputs, batch: Batch) -> dict[str, float]:
        """Text by text, from the models themselves."""
        rewards, means, found = [], [], {}
        texts = zip(batch.inputs["token_ids"].tolist(), batch.inputs["scored_ids"].tolist(), strict=True)
        for ids, labels in texts:
            ours, theirs = (
                [sum_of_log_probs(model, *text) for text in zip(ids, labels, strict=True)]
                for model in (case.model, frozen)
            )
            rewards.append([0.2 * (one - other) for one, other in zip(ours, theirs, strict=True)])
            means.append([total / sum(label != -100 for label in labels[at]) for at, total in enumerate(ours)])
        if options["objective"] == "kto":
            z = max(0.0, sum(pair[1] / 0.2 for pair in rewards) / len(rewards))
            wanted = batch.labels["desirable"].tolist()
            losses = [
                1 - sigmoid((1 if good else -1) * (pair[0] - 0.2 * z))
                for pair, good in zip(rewards, wanted, strict=True)
            ]
            for name, which in (("reward_desirable", True), ("reward_undesirable", False)):
                values = [pair[0] for pair, good in zip(rewards, wanted, strict=True) if good is which]
                found[name] = sum(values) / len(values)
            found["reward_margin"] = found["reward_desirable"] - found["reward_undesirable"]
            found["kl"] = sum(pair[1] / 0.2 for pair in rewards) / len(rewards)
            return found | {"loss": sum(losses) / len(losses)}
        if options["objective"] == "orpo":
            rewards = [[0.2 * value for value in pair] for pair in means]
            odds = [[p / (1 - p) for p in map(math.exp, pair)] for pair in means]
            losses = [
                -pair[0] - 0.2 * math.log(sigmoid(math.log(ratio[0] / ratio[1])))
                for pair, ratio in zip(means, odds, strict=True)
            ]
        else:
            losses = [-math.log(sigmoid(pair[0] - pair[1])) for pair in rewards]
        return {
            "loss": sum(losses) / len(losses),
            "reward_accuracy": sum((pair[0] > pair[1]) + (pair[0] == pair[1]) / 2 for pair in rewards) / len(rewards),
            "reward_margin": sum(pair[0] - pair[1] for pair in rewards) / len(rewards),
            "reward_chosen": sum(pair[0] for pair in rewards) / len(rewards),
            "reward_rejected": sum(pair[1] for pair in rewards) / len(rewards),
        }

    data = data_of(write_rows(rows, folder / "rows.jsonl"))
    asked = [{"prompt": row["prompt"]} for row in rows[:5]]
    case = make_case(task, data, "llama", reference, asked=asked, options={"max_tokens": 4})
    frozen = with_reference(case) if options["objective"] != "orpo" else case.model
    return case


CASES = {
    "dpo": lambda folder: _made(folder, objective="dpo"),
    "orpo": lambda folder: _made(folder, objective="orpo"),
    "kto": lambda folder: _made(folder, objective="kto"),
}
