"""Encoders that worker processes can import."""

import os
import signal
from collections.abc import Iterator, Mapping

import numpy as np

from danlu.data.rows import BadField, Example


def count_letters(fields: Mapping[str, object]) -> Iterator[Example]:
    """Letters become their code points; a number is bad, `none` gives nothing, `twice` gives two examples."""
    text = fields["text"]
    if not isinstance(text, str):
        raise BadField("text", "is no text", "Write words")
    for _ in range({"none": 0, "twice": 2}.get(text, 1)):
        yield {"input_ids": np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), "size": np.asarray(len(text))}


def die(fields: Mapping[str, object]) -> Iterator[Example]:
    """As the operating system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield {}


def fail(fields: Mapping[str, object]) -> Iterator[Example]:
    raise LookupError("a fault of the program")
    yield {}
