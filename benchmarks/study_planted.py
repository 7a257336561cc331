"""Does `danlu study` say what is true? A case whose truth is known by construction, over and over with other seeds.

A small language model learns few lines by heart for many steps, so that it overfits. In one study of five seeds:

- `label_smoothing` at 0 is the identity: the verdict must be that there is no effect;
- `dropout` at 0.9 leaves a tenth of what the model computes: it must hurt;
- `weight_decay` at a strength that stops the overfitting must help.

A repetition is right when all three verdicts are. The identity changes nothing at all, so that it also asks whether two
equal runs are equal to the last bit. What noise does to a technique without an effect is asked apart: `gradient_noise`
so small that it only changes the rounding is told to have no effect in 19 of 20 cases if the test is honest; this is
printed, not demanded.

    python benchmarks/study_planted.py [REPETITIONS [SEEDS]]
"""

import contextlib
import io
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
  budget: {steps: 60}
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
    weight_decay: {l2: 2.0}
    gradient_noise: {eta: 1.0e-12}
"""
TRUTH = {"label_smoothing": "no effect seen", "dropout": "hurts", "weight_decay": "helps"}
NULL = "gradient_noise"


def main(repetitions: int, seeds: int) -> int:
    right, wrong, null, started = 0, Counter[str](), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        _write(Path())
        for at in range(repetitions):
            recipe = load_recipe("planted.yaml", [f"seed={1000 * at}", f"study.seeds={seeds}"])
            with contextlib.redirect_stderr(io.StringIO()):
                folder, stopped = study(recipe, out=Path("studies") / str(at))
            if stopped:
                return 130
            rows = {row["name"]: row for row in read_results(folder)["techniques"]}
            missed = [name for name, truth in TRUTH.items() if rows[name]["verdict"] != truth]
            right, null = right + (not missed), null + (rows[NULL]["verdict"] == "no effect seen")
            wrong.update(missed)
            said = "; ".join(f"{name} {row['words']}" for name, row in rows.items())
            print(f"{at + 1}: {'right' if not missed else 'WRONG'} · {said}", flush=True)
    print(f"all three verdicts right in {right} of {repetitions} (wrong: {dict(wrong) or 'none'})")
    print(f"noise without an effect was told to have none in {null} of {repetitions}; 95 % are to be expected")
    print(f"{time.monotonic() - started:.0f} s")
    return 0 if right >= 0.95 * repetitions else 1


def _write(place: Path) -> None:
    """Lines of one kind: so few to learn from that they can be learnt by heart, and others to be judged by."""
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n * n * n % 11} of gold" for n in range(240)]
    (place / "few.txt").write_text("\n".join(lines[::6]), encoding="utf-8")
    (place / "many.txt").write_text("\n".join(lines[1::2]), encoding="utf-8")
    (place / "planted.yaml").write_text(RECIPE, encoding="utf-8")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [20, 5][len(numbers) :])))
