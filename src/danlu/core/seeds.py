"""Randomness as a pure function of the clock.

Nothing in danlu carries a generator's state from step to step. Each step, and each named use inside it, derives its
own seed, so a run resumed at any step, or evaluated more or less often, draws the same numbers.
"""

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else.

    Example: `seed_of(recipe_seed, "dropout", step, rank)`.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_of(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded with `seed_of(*parts)`."""
    return torch.Generator(device=device).manual_seed(seed_of(*parts))
