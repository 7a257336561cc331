"""Init: looks at a data file and writes a commented recipe that runs."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

from danlu.core.errors import RequestError
from danlu.data.columns import Columns, find_columns
from danlu.data.rows import Row
from danlu.data.sources import open_source
from danlu.recipe.document import dump, parse
from danlu.recipe.load import read_tree

ROWS_TO_LOOK_AT = 200
BYTES_PER_TOKEN = 3.5
"""of English and code under an 8k vocabulary; only used to propose a context"""
CONTEXTS = (64, 128, 256, 512, 1024, 2048)
MANY_BYTES = 20e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What a source holds: sizes, columns, what they seem to mean, and lengths in bytes (median, 95 %, longest)."""

    spec: str
    num_files: int
    num_bytes: int
    formats: tuple[str, ...]
    columns: Columns
    fields: tuple[str, ...]
    num_rows_seen: int
    median_bytes: int
    long_bytes: int
    longest_bytes: int
    example: str

    @property
    def is_large(self) -> bool:
        """Whether a small share of it is enough to judge by."""
        return self.num_rows_seen >= ROWS_TO_LOOK_AT or self.num_bytes > MANY_BYTES / 20

    @property
    def context(self) -> int:
        """A context that holds 95 % of the rows seen, within what is quick on a CPU."""
        if self.columns.kind == "text" and self.num_rows_seen < ROWS_TO_LOOK_AT:
            return 256
        wanted = self.long_bytes / BYTES_PER_TOKEN
        return next((size for size in CONTEXTS if size >= wanted), 512 if self.columns.kind == "text" else CONTEXTS[-1])


def look_at(spec: str | Sequence[str]) -> Look:
    """Opens a source and reads its first rows.

    Raises:
        DataError: there is no such source, it holds nothing, or its columns cannot be told apart.
    """
    source = open_source(spec)
    rows = source.peek(ROWS_TO_LOOK_AT)
    columns = find_columns(rows[0].fields, where=rows[0].file)
    lengths = sorted(_num_bytes(row, columns) for row in rows)
    return Look(
        spec=source.spec,
        num_files=len(source.files),
        num_bytes=source.num_bytes,
        formats=tuple(sorted({file.format for file in source.files})),
        columns=columns,
        fields=tuple(map(str, rows[0].fields)),
        num_rows_seen=len(rows),
        median_bytes=lengths[len(lengths) // 2],
        long_bytes=lengths[math.ceil(0.95 * len(lengths)) - 1],
        longest_bytes=lengths[-1],
        example=_excerpt(rows[0], columns),
    )


def propose(look: Look, *, task: str = "text-generation", model: str | None = None, name: str | None = None) -> str:
    """A commented recipe for this data, checked: it loads.

    Args:
        look: what the data holds.
        task: what the model shall learn.
        model: hub name, folder or .gguf file to start from; a new small model when absent.
        name: the run's name; made from the data's when absent.

    Raises:
        RecipeError: the task or the model's name is wrong.
    """
    name = name or re.sub(r"[^\w.+-]+", "-", Path(look.spec.split(",")[0].rpartition(":")[2]).stem).strip("-.") or "run"
    text = _head(look, name, task) + _data(look, model) + (_tuned(model) if model else _designed(look))
    tree = parse(text, source=name)
    assert isinstance(tree, dict)
    read_tree(tree, source=f"the recipe for {look.spec}")
    return text


def write_recipe(text: str, out: Path, *, over: bool = False) -> None:
    """Writes the recipe; what is there already stays unless `over`.

    Raises:
        RequestError: there is a file of this name, or it cannot be written.
    """
    if out.exists() and not over:
        raise RequestError("this file exists already", where=str(out), mend="Give another name with --out, or --force")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"cannot be written: {error.strerror}", where=str(out), mend="Choose another --out"
        ) from None


def _num_bytes(row: Row, columns: Columns) -> int:
    return sum(len(str(row.fields.get(column, "")).encode()) for column in columns.by_role.values())


def _excerpt(row: Row, columns: Columns) -> str:
    text = " | ".join(str(row.fields.get(column, "")) for column in columns.by_role.values())
    return " ".join(text.split())[:160]


def _head(look: Look, name: str, task: str) -> str:
    return f"""# Written by `danlu init` for {look.spec}.
# What will happen:  danlu explain THIS FILE
# Train:             danlu train THIS FILE
# Every key can also be given on the command line: danlu train THIS FILE train.budget.minutes=1

name: {_scalar(name)}
seed: 0                       # everything random follows from it
task: {_scalar(task)}
"""


def _data(look: Look, model: str | None) -> str:
    kind = look.columns.kind
    what = {"text": "plain text", "prompt": "a prompt with its response", "messages": "chat messages"}[kind]
    learns = "" if kind == "text" else "; only the answers are learnt"
    lines = [
        "",
        "data:",
        f"  train: {_scalar(look.spec if ', ' not in look.spec else look.spec.split(', '))}"
        "  # file, folder, glob, hub name or builtin:NAME; paths start where you run danlu",
        f"  valid: {'2%' if look.is_large else '10%'}                  # a share of train set aside to judge by, or a source of its own",
        f"  format: {kind}                # {what}{learns}",
    ]
    if look.formats != ("text",):
        roles = ", ".join(f"{role}: {_scalar(column)}" for role, column in look.columns.by_role.items())
        lines.append(f"  columns: {{{roles}}}   # the file has: {', '.join(look.fields)}")
    if model is None:
        lines.append("  tokenizer: {train: bpe, size: 8192}   # or {from: FOLDER | HUB NAME}")
    lines.append(f"  context: {look.context}                # tokens of a row; of the rows seen, 95 % fit")
    lines.append("  on_bad: refuse              # or skip: go on without a bad row, and list it in the journal")
    return "\n".join(lines) + "\n"


def _designed(look: Look) -> str:
    layers, width, heads = (6, 384, 6) if look.num_bytes > 2e6 else (4, 256, 4)
    return f"""
model:                        # a new model; to start from one that exists: from: HUB NAME | FOLDER | FILE.gguf
  design: {{family: llama, layers: {layers}, width: {width}, heads: {heads}, kv_heads: 2}}

train:
  budget: {{minutes: 5}}        # or steps, epochs, tokens: whichever comes first
  batch: {{tokens: 8192}}       # of one step; how many rows fit in memory at once is found out
  optimizer: {{kind: adamw, lr: 1.0e-3}}
  schedule: {{warmup: 5%, shape: cosine, floor: 10%}}
  precision: auto

techniques:                   # by name; false switches one off. `danlu explain` shows what each does when
  weight_decay: {{l2: 0.1}}
  grad_clip: {{norm: 1.0}}
{_early_stop(look)}control: auto                 # what findings may do: off, suggest or auto
track: []                     # tensorboard, mlflow, wandb
"""


def _tuned(model: str) -> str:
    return f"""
model:
  from: {_scalar(model)}
  adapter: {{kind: lora, r: 16}}   # trains a small part beside the frozen weights; remove this line to train all

train:
  budget: {{epochs: 2}}         # or steps, tokens, minutes: whichever comes first
  batch: {{tokens: 4096}}       # of one step; how many rows fit in memory at once is found out
  optimizer: {{kind: adamw, lr: 2.0e-4}}   # without the adapter take about 2.0e-5
  schedule: {{warmup: 5%, shape: cosine, floor: 10%}}
  precision: auto

techniques:                   # by name; false switches one off. `danlu explain` shows what each does when
  grad_clip: {{norm: 1.0}}
  early_stop: {{patience: 3}}

control: auto                 # what findings may do: off, suggest or auto
track: []                     # tensorboard, mlflow, wandb
"""


def _early_stop(look: Look) -> str:
    return (
        "" if look.num_bytes > MANY_BYTES else "  early_stop: {patience: 3}   # little data is soon learnt by heart\n"
    )


def _scalar(value: object) -> str:
    """One YAML value on one line."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return dump(value).removesuffix("\n").removesuffix("\n...")
