"""Reward functions of recipes/reinforcement-terse.yaml: each gives a number for each completion."""

from collections.abc import Sequence


def right(completions: Sequence[str], chosen: Sequence[str]) -> list[float]:
    """1 where the answer names the capital, which the column `chosen` holds."""
    return [float(name.lower() in text.lower()) for text, name in zip(completions, chosen, strict=True)]


def brief(completions: Sequence[str]) -> list[float]:
    """1 for a single word, less for each further one, 0 from eleven on."""
    return [max(0.0, 1.1 - 0.1 * max(1, len(text.split()))) for text in completions]
