"""Does `danlu study` say what is true? A case whose truth is known by construction, over and over with other seeds.

A small language model reads eight lines, each the same beginning and ten words drawn at random, so often that it knows
them by heart; others of the kind judge it. In one study of five seeds:

- `label_smoothing` at 0 is the identity: the verdict must be that there is no effect. Nothing at all may change, so
  that this also asks whether equal runs are equal to the last bit;
- `dropout` at 0.9 leaves a tenth of what the model computes, which then learns not even the beginning: it must hurt;
- `weight_decay` at a strength that stops the learning by heart must help.

A repetition is right when all three verdicts are. How often noise alone is taken for an effect is asked in
tests/maths/test_statistics.py, where it costs nothing.

    python benchmarks/study_planted.py [REPETITIONS [SEEDS [FIRST]]]
"""

import contextlib
import io
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from danlu.recipe.load import load_recipe
from danlu.stages.study import read_results, study

RECIPE = """
name: planted
task: text-generation
data: {train: few.txt, valid: many.txt, context: 32, tokenizer: {train: bpe, size: 300}, cache: cache}
model: {design: {family: llama, layers: 1, width: 32, heads: 2}}
train:
  budget: {steps: 90}
  batch: {tokens: 256}
  micro_batch: 8
  precision: fp32
  optimizer: {kind: adamw, lr: 2.0e-2}
  evaluate_every: {steps: 1000}
  samples: false
study:
  techniques:
    label_smoothing: {epsilon: 0.0}
    dropout: {p: 0.9}
    weight_decay: {l2: 5.0}
"""
TRUTH = {"label_smoothing": "no effect seen", "dropout": "hurts", "weight_decay": "helps"}
WORDS = (
    "lead",
    "gold",
    "iron",
    "zinc",
    "coal",
    "salt",
    "sand",
    "lime",
    "clay",
    "gas",
    "ash",
    "oil",
    "ice",
    "tar",
    "soot",
    "wax",
)


def main(repetitions: int, seeds: int, first: int) -> int:
    right, wrong, started = 0, Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        _write(Path())
        for at in range(first, first + repetitions):
            recipe = load_recipe("planted.yaml", [f"seed={1000 * at}", f"study.seeds={seeds}"])
            with contextlib.redirect_stderr(io.StringIO()):
                folder, stopped = study(recipe, out=Path("studies") / str(at))
            if stopped:
                return 130
            rows = {row["name"]: row for row in read_results(folder)["techniques"]}
            missed = [name for name, truth in TRUTH.items() if rows[name]["verdict"] != truth]
            right += not missed
            wrong.update(missed)
            said = "; ".join(f"{name} {row['words']}" for name, row in rows.items())
            print(f"{at + 1}: {'right' if not missed else 'WRONG'} · {said}", flush=True)
    print(f"all three verdicts right in {right} of {repetitions} (wrong: {dict(wrong) or 'none'})")
    print(f"{time.monotonic() - started:.0f} s")
    return 0 if right >= 0.95 * repetitions else 1


def _write(place: Path) -> None:
    beginning = "the furnace of the old alchemist in the white tower melts "
    for seed, name, number in ((1, "few", 8), (2, "many", 60)):
        draw = random.Random(seed)
        lines = [beginning + " ".join(draw.choice(WORDS) for _ in range(10)) for _ in range(number)]
        (place / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    (place / "planted.yaml").write_text(RECIPE, encoding="utf-8")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [20, 5, 0][len(numbers) :])))
