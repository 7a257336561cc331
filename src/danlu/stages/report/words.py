"""Numbers as a person reads them, and what they mean in plain words."""

import math
import re
from collections.abc import Mapping

GAP = "\N{NO-BREAK SPACE}"


MEANINGS = {
    "macro_f1": "The mean over the classes of F1, in which a rare class counts as much as a common one. 1 is perfect.",
    "auroc": "The chance that a row of a class scores higher for it than a row that is not. 0.5 is guessing.",
    "mcc": "Correlation of what was said with what is so. 0 is guessing, 1 perfect, whatever the classes' sizes.",
    "calibration_error": "How far the model's confidence is from how often it is right, on average. 0 is perfect.",
    "subset_accuracy": "The share of rows with every label right.",
    "mae": "How far the number is off, on average.",
    "rmse": "How far the number is off, with large errors counting more.",
    "r2": "The share of the spread that is explained. 0 is no better than always saying the mean, 1 is perfect.",
    "map": "Mean average precision over the classes and over overlaps of .50 to .95, as COCO has it. 1 is perfect.",
    "map_50": "The same where half an overlap counts as found.",
    "hr": "The share of cases in which what was chosen stands within the first so many of the list.",
    "recall": "The share of what is right that stands within the first so many of the list.",
    "ndcg": "How high in the list what is right stands: 1 at the top, less further down.",
    "mrr": "The mean of 1 over the place at which what is right stands.",
    "coverage": "The share of all items that stand in anybody's list.",
    "bleu": "How many runs of one to four words it shares with the reference, 0 to 100.",
    "chrf": "How many runs of letters it shares with the reference, 0 to 100; kinder to endings than BLEU.",
    "reward_accuracy": "The share of pairs in which the chosen answer has the greater reward. 0.5 is guessing.",
    "reward_margin": "How much greater the reward of what is preferred is, on average.",
    "reward": "What the reward functions give an answer, on average.",
    "kl": "How far the model has moved from its reference, in nats a token.",
    "ter": "Edits needed to make it the reference, for each 100 of its words. Lower is better.",
}
"""by name, without the place in a list (`ndcg@10`)"""


def count(value: float) -> str:
    """1234 → "1,234"; 12345678 → "12.3 M"."""
    if not math.isfinite(value):
        return str(value)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e5, "k")):
        if abs(value) >= limit:
            return f"{significant(value / (1e3 if letter == 'k' else limit))}{GAP}{letter}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else significant(value)


def significant(value: float, digits: int = 3) -> str:
    """A number with that many digits that matter: 0.012345 → "0.0123", 1234.5 → "1,234", 1.2e-05 → "1.2e-5"."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    power = math.floor(math.log10(abs(value)))
    if power < -3 or power > 8:
        mantissa = f"{value / 10.0**power:.{digits - 1}f}".rstrip("0").rstrip(".")
        return f"{mantissa}e{power}"
    return f"{value:,.{max(0, digits - 1 - power)}f}"


def tick(text: str) -> str:
    """A number beside an axis, without the zeros at its end: "0.0060 s" → "0.006 s"."""
    return re.sub(r"\.(?!\d)", "", re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text))


def duration(seconds: float) -> str:
    """75 → "1 min 15 s"."""
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 10:
        return f"{significant(seconds, 2)}{GAP}s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    return " ".join(f"{size}{GAP}{unit}" for size, unit in [part for part in parts if part[0]][:2])


def size(num_bytes: float) -> str:
    """1500000 → "1.5 MB"."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{significant(num_bytes / limit, 2 if num_bytes / limit < 10 else 3)}{GAP}{unit}"
    return f"{num_bytes:.0f}{GAP}bytes"


def percent(share: float) -> str:
    """0.1234 → "12.3 %"."""
    return f"{significant(100 * share)}{GAP}%"


def label(name: str) -> str:
    """The words for a metric or probe: "bits_per_byte" → "bits per byte"."""
    return name.replace("_", " ").replace("/", " · ")


def shown(name: str, value: float) -> str:
    """A metric's number by the unit that its name carries."""
    if name.endswith("_seconds"):
        return duration(value)
    if name.endswith("_bytes"):
        return size(value)
    if name.startswith("perplexity"):
        return significant(value, 3) if value < 1e6 else count(value)
    return significant(value, 4 if abs(value) >= 1 else 3)


def explained(name: str, value: float, facts: Mapping[str, float], *, answer: str = "token") -> str:
    """What a metric's number means, for somebody who meets it for the first time; empty when we do not know.

    `facts` may hold `vocabulary` (tokens) and `first` (the number at the first evaluation). `answer` is what the model
    gives a chance to, and that the loss is of; empty where the loss is made otherwise.
    """
    if not math.isfinite(value):
        return "This is not a number: the model broke down before it was measured."
    if name == "bits_per_byte":
        return (
            f"Text it has never seen costs this model {value:.2f} bits for each byte. Stored as it is, a byte takes 8, "
            "so lower means that more of the text could be foretold. It compares models with different tokenizers."
        )
    if name == "perplexity":
        out_of = f" out of {count(facts['vocabulary'])}" if "vocabulary" in facts else ""
        return (
            f"Before each token the model is as unsure as if it had to choose among {significant(value)} equally "
            f"likely ones{out_of}. 1 would be certainty."
        )
    if name == "loss" and answer:
        return (
            f"The average of −log p(right {answer}), in nats, on data kept aside. It gave the right {answer} a "
            f"chance of {percent(math.exp(-value))} (the geometric mean)."
        )
    if name == "accuracy":
        return f"The share of answers that were right: {percent(value)}."
    return MEANINGS.get(name.partition("@")[0], "")
