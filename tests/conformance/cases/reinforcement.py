"""Reinforcement: GRPO with a reference, and as Dr. GRPO without one, with two rewards."""

import math
from pathlib import Path

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.tasks.reinforcement import Reinforcement

from . import aligned
from .aligned import data_of, preference_rows, sum_of_log_probs, with_reference, write_rows
from .case import Case, make_case

REWARDS = ("fiery", "short")


def _made(folder: Path, **options: object) -> Case:
    rows = [{"prompt": row["prompt"], "limit": 10 + at % 7} for at, row in enumerate(preference_rows())]
    task = Reinforcement(
        rewards=tuple(f"{aligned.__name__}:{name}" for name in REWARDS),
        reward_weights=(2.0, 0.5),
        group=4,
        max_tokens=12,
        temperature=0.8,
        eval_samples=3,
        reference="elsewhere",
        **options,
    )

    def reference(outputs: Outputs, batch: Batch) -> dict[str, float]:
        """Answer by answer, from the texts and the models themselves."""
        tools, sums = (
            case.prepared.tools,
            dict.fromkeys(("fiery", "short", "reward", "tokens", "ended", "kl", "nats"), 0.0),
        )
        losses, spreads, group = [], [], []
        texts = zip(batch.inputs["input_ids"].tolist(), batch.labels["tokens"].tolist(), strict=True)
        for at, (ids, labels) in enumerate(texts):
            answer = [label for label in labels if label != -100]
            ended = answer[-1] == tools.eos_token_id
            start = next(place for place, label in enumerate(labels) if label != -100) + 1
            asked, whole = (
                tools.decode(ids[:end], skip_special_tokens=True) for end in (start, start + len(answer) - ended)
            )
            text = whole[len(asked) :]
            given = case.prepared.valid[at // 3]
            limit = int(bytes(given["row"]).decode().rpartition('"limit": ')[2].rstrip("}"))
            values = aligned.fiery([text], [""])[0], aligned.short([text], [limit])[0]
            reward = 2.0 * values[0] + 0.5 * values[1]
            divergence = 0.0
            for place, label in enumerate(labels):
                if label == -100:
                    continue
                one = [-100] * place + [label]
                ours, theirs = (sum_of_log_probs(m, ids, one, temperature=0.8) for m in (case.model, frozen))
                divergence += math.exp(theirs - ours) - (theirs - ours) - 1
                sums["nats"] -= ours
            below = len(answer) if task.normalise == "length" else 12
            losses.append(task.beta * divergence / below - reward)
            for name, value in (*zip(REWARDS, values, strict=True), ("reward", reward), ("ended", ended)):
                sums[name] += value
            sums["kl"] += divergence
            sums["tokens"] += len(answer)
            group = [*group, reward]
            if len(group) == 3:
                mean = sum(group) / 3
                spreads.append(math.sqrt(sum((value - mean) ** 2 for value in group) / 2))
                group = []
        number = len(losses)
        found = {
            "reward": sums["reward"] / number,
            "reward_fiery": sums["fiery"] / number,
            "reward_short": sums["short"] / number,
            "reward_std": sum(spreads) / len(spreads),
            "entropy": sums["nats"] / sums["tokens"],
            "completion_tokens": sums["tokens"] / number,
            "ended": sums["ended"] / number,
            "loss": sum(losses) / number,
        }
        return found | ({"kl": sums["kl"] / sums["tokens"]} if task.beta else {})

    data = data_of(write_rows(rows, folder / "rows.jsonl"), context=32)
    asked = [{"prompt": row["prompt"]} for row in rows[:5]]
    case = make_case(task, data, "llama", reference, asked=asked, options={"max_tokens": 4})
    frozen = with_reference(case) if task.beta else case.model
    return case


CASES = {
    "grpo": lambda folder: _made(folder),
    "dr-grpo": lambda folder: _made(folder, beta=0.0, normalise="constant", scale_advantages=False),
}
