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
THIS_FILE = "THIS_FILE"
"""stands in the text for the name under which it will be written"""
CONTEXTS = (64, 128, 256, 512, 1024, 2048)
LITTLE_BYTES, MANY_BYTES = 2e6, 20e6


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
    text = _written(_head(look, name, task) + _data(look, model) + (_tuned(model) if model else _designed(look)))
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
        out.write_text(text.replace(THIS_FILE, str(out)), encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"cannot be written: {error.strerror}", where=str(out), mend="Choose another --out"
        ) from None


def _num_bytes(row: Row, columns: Columns) -> int:
    return sum(len(str(row.fields.get(column, "")).encode()) for column in columns.by_role.values())


def _excerpt(row: Row, columns: Columns) -> str:
    text = " | ".join(str(row.fields.get(column, "")) for column in columns.by_role.values())
    return " ".join(text.split())[:160]


Lines = list[tuple[str, str]]  # what the recipe says, and a comment


def _head(look: Look, name: str, task: str) -> Lines:
    return [
        (f"# Written by `danlu init` for {look.spec}.", ""),
        (f"# What will happen:  danlu explain {THIS_FILE}", ""),
        (f"# Train:             danlu train {THIS_FILE}", ""),
        (f"# Each key is also a word on the command line:  danlu train {THIS_FILE} train.budget.minutes=1", ""),
        ("", ""),
        (f"name: {_scalar(name)}", ""),
        ("seed: 0", "everything random follows from it"),
        (f"task: {_scalar(task)}", ""),
    ]


def _data(look: Look, model: str | None) -> Lines:
    kind = look.columns.kind
    what = {"text": "plain text", "prompt": "a prompt with its response", "messages": "chat messages"}[kind]
    learns = "" if kind == "text" else "; only the answers are learnt"
    spec = _scalar(look.spec.split(", ") if ", " in look.spec else look.spec)
    roles = ", ".join(f"{role}: {_scalar(column)}" for role, column in look.columns.by_role.items())
    columns = [(f"  columns: {{{roles}}}", f"the data has: {', '.join(look.fields)}")]
    entries = 8192 if look.num_bytes > LITTLE_BYTES else 2048 if look.num_bytes > LITTLE_BYTES / 10 else 512
    tokenizer = [(f"  tokenizer: {{train: bpe, size: {entries}}}", "or {from: FOLDER | HUB NAME}")]
    return [
        ("", ""),
        ("data:", ""),
        (f"  train: {spec}", "file, folder, glob, hub name or builtin:NAME; paths start where you run danlu"),
        (f"  valid: {'2%' if look.is_large else '10%'}", "a share of train set aside to judge by, or a source"),
        (f"  format: {kind}", f"{what}{learns}"),
        *(columns if look.formats != ("text",) else []),
        *(tokenizer if model is None else []),
        (f"  context: {look.context}", "tokens of a row"),
        ("  on_bad: refuse", "or skip: go on without a bad row, and list it in the journal"),
    ]


def _designed(look: Look) -> Lines:
    layers, width, heads = (6, 384, 6) if look.num_bytes > LITTLE_BYTES else (4, 256, 4)
    design = f"{{family: llama, layers: {layers}, width: {width}, heads: {heads}, kv_heads: 2}}"
    stop = [("  early_stop: {patience: 3}", "little data is soon learnt by heart")]
    return [
        ("", ""),
        ("model:", "a new one; to begin with one that exists: {from: HUB NAME | FOLDER | FILE.gguf}"),
        (f"  design: {design}", ""),
        *_train("{minutes: 5}", "{tokens: 8192}", "1.0e-3", ""),
        ("  weight_decay: {l2: 0.1}", ""),
        ("  grad_clip: {norm: 1.0}", ""),
        *(stop if look.num_bytes < MANY_BYTES else []),
        *_TAIL,
    ]


def _tuned(model: str) -> Lines:
    return [
        ("", ""),
        ("model:", ""),
        (f"  from: {_scalar(model)}", "hub name, folder or .gguf file"),
        ("  adapter: {kind: lora, r: 16}", "trains a small part beside frozen weights; without this line, all"),
        *_train("{epochs: 2}", "{tokens: 4096}", "2.0e-4", "without the adapter about 2.0e-5"),
        ("  grad_clip: {norm: 1.0}", ""),
        ("  early_stop: {patience: 3}", ""),
        *_TAIL,
    ]


def _train(budget: str, batch: str, lr: str, about_lr: str) -> Lines:
    return [
        ("", ""),
        ("train:", ""),
        (f"  budget: {budget}", "steps, epochs, tokens or minutes: whichever comes first"),
        (f"  batch: {batch}", "of one step; how many rows fit in memory at once is found out"),
        (f"  optimizer: {{kind: adamw, lr: {lr}}}", about_lr),
        ("  schedule: {warmup: 5%, shape: cosine, floor: 10%}", ""),
        ("  precision: auto", ""),
        ("", ""),
        ("techniques:", "by name; false switches one off"),
    ]


_TAIL: Lines = [
    ("", ""),
    ("control: auto", "what findings may do: off, suggest or auto"),
    ("track: []", "tensorboard, mlflow, wandb"),
]


def _written(lines: Lines) -> str:
    """The lines, their comments in one column where they fit."""
    return "".join(f"{text:<40}  # {about}\n" if about else f"{text}\n" for text, about in lines)


def _scalar(value: object) -> str:
    """One YAML value on one line."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return dump(value).removesuffix("\n").removesuffix("\n...")
