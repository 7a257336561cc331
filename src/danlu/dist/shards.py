"""Trees of tensors and plain values as files that any number of processes writes and any other number reads.

Each process writes the boxes of tensors that it holds to `shard-RRRRR.safetensors` and says where they lie in their
whole tensors in `shard-RRRRR.json`; the first process writes what is not sharded, and the tree itself (`tree.json`), in
which a tensor stands as its name. Nothing is pickled, so nothing that is read can run.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from danlu.dist.local import is_sharded
from danlu.dist.state import Deferred, laid_out, local_box

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
"""safetensors' words for torch's types"""
_WORDS = {str(dtype): dtype for dtype in DTYPES}
_CHUNK_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staged:
    """A tree as it was at one moment, on the CPU, ready to be written while training goes on.

    `boxes` maps a box's key to (tensor's name, offsets, tensor); `tree` is JSON.
    """

    tree: Any
    boxes: Mapping[str, tuple[str, tuple[int, ...], Tensor]]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for _, _, tensor in self.boxes.values())


class _Stager:
    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.boxes: dict[str, tuple[str, tuple[int, ...], Tensor]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._seen: dict[tuple[object, ...], str] = {}

    def plain(self, value: Any, place: str) -> Any:
        """`value` as JSON, its tensors taken out."""
        if isinstance(value, Tensor):
            return {"$tensor": self._tensor(value, place)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, place)
        if isinstance(value, (list, tuple, set, frozenset)):
            entries = sorted(value) if isinstance(value, (set, frozenset)) else value
            plain = [self.plain(entry, f"{place}/{number}") for number, entry in enumerate(entries)]
            return plain if isinstance(value, list) else {f"${_kind(value)}": plain}
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value)}
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return value.item()
        if hasattr(value, "__array_interface__"):
            return {"$array": self._tensor(torch.from_numpy(value), place)}
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} ({place})")

    def _mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            plain = {key: self.plain(entry, f"{place}/{key}") for key, entry in value.items()}
        else:
            items = [[self.plain(key, place), self.plain(entry, f"{place}/{key}")] for key, entry in value.items()]
            plain = {"$items": items}
        return {"$deferred": plain} if isinstance(value, Deferred) else plain

    def _tensor(self, tensor: Tensor, place: str) -> str:
        """Takes a copy of what this process holds of the tensor; one that was seen before is not taken again."""
        sharded = tensor if is_sharded(tensor) else None
        local = tensor.detach() if sharded is None else sharded.to_local().detach()
        where = (local.device, local.data_ptr(), local.dtype, tuple(local.shape), local.stride(), tuple(tensor.shape))
        if local.numel() and where in self._seen:
            return self._seen[where]
        name = place.lstrip("/")
        self._seen[where] = name
        self.shapes[name] = tuple(tensor.shape)
        if sharded is not None or self.rank == 0:
            offsets = (0,) * tensor.dim() if sharded is None else local_box(sharded)[0]
            if local.numel() or sharded is None:
                self.boxes[f"{name}@{self.rank}"] = (name, offsets, local.to("cpu", copy=True).contiguous())
        return name


def _kind(value: object) -> str:
    return "tuple" if isinstance(value, tuple) else type(value).__name__


def stage(trees: Mapping[str, Any], *, rank: int) -> Staged:
    """A copy on the CPU of this process's part of `trees`.

    Trees may hold tensors (sharded or not), numpy arrays, numbers, strings, booleans, None, lists, tuples, sets and
    mappings. Of what is not sharded the first process's is kept.

    Raises:
        TypeError: something else is in it; the message names the place.
    """
    stager = _Stager(rank)
    tree = stager.plain(dict(trees), "")
    return Staged(tree=tree, boxes=stager.boxes, shapes=stager.shapes)


def write_shard(folder: Path, staged: Staged, *, rank: int) -> dict[str, dict[str, Any]]:
    """Writes this process's files, each flushed to the disk. Returns file name → {"bytes", "blake2b"}."""
    stem = f"shard-{rank:05d}"
    boxes = {
        key: {"tensor": name, "offsets": list(offsets), "sizes": list(tensor.shape), "dtype": str(tensor.dtype)}
        for key, (name, offsets, tensor) in staged.boxes.items()
    }
    written = {
        f"{stem}.safetensors": _write_file(folder / f"{stem}.safetensors", _safetensors(staged)),
        f"{stem}.json": _write_file(folder / f"{stem}.json", [json.dumps(boxes).encode()]),
    }
    if rank == 0:
        content = {"tree": staged.tree, "shapes": staged.shapes}
        written["tree.json"] = _write_file(folder / "tree.json", [json.dumps(content).encode()])
    return written


def digest(path: Path) -> dict[str, Any]:
    """Size and blake2b of a file as it is now."""
    with path.open("rb") as file:
        content = hashlib.blake2b(digest_size=16)
        num_bytes = 0
        while chunk := file.read(_CHUNK_BYTES):
            content.update(chunk)
            num_bytes += len(chunk)
    return {"bytes": num_bytes, "blake2b": content.hexdigest()}


def _write_file(path: Path, chunks: Any) -> dict[str, Any]:
    content = hashlib.blake2b(digest_size=16)
    num_bytes = 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            content.update(chunk)
            num_bytes += len(chunk)
        flush(file)
    return {"bytes": num_bytes, "blake2b": content.hexdigest()}


def flush(file: BinaryIO) -> None:
    """Returns when the file's bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _safetensors(staged: Staged) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file (github.com/huggingface/safetensors, "Format"), without a copy of them all."""
    header: dict[str, Any] = {}
    at = 0
    for key, (_, _, tensor) in staged.boxes.items():
        size = tensor.numel() * tensor.element_size()
        header[key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, _, tensor in staged.boxes.values():
        if tensor.numel():
            raw = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            for start in range(0, len(raw), _CHUNK_BYTES):
                yield raw[start : start + _CHUNK_BYTES]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Box:
    file: Path
    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in the shards of a folder. It is a `SavedTensor`."""

    name: str
    shape: tuple[int, ...]
    boxes: tuple[_Box, ...]

    def read(self, offsets: tuple[int, ...] | None = None, sizes: tuple[int, ...] | None = None) -> Tensor:
        """The box of `sizes` at `offsets`, put together from the stored boxes that it touches."""
        offsets, sizes = offsets or (0,) * len(self.shape), self.shape if sizes is None else sizes
        whole = torch.empty(sizes, dtype=self.boxes[0].dtype) if self.boxes else torch.empty(sizes)
        num_read = 0
        for box in {(box.offsets, box.sizes): box for box in self.boxes}.values():
            starts = [max(a, b) for a, b in zip(offsets, box.offsets, strict=True)]
            stops = [min(a + n, b + m) for a, n, b, m in zip(offsets, sizes, box.offsets, box.sizes, strict=True)]
            if any(stop <= start for start, stop in zip(starts, stops, strict=True)):
                continue
            inside = tuple(slice(a - b, z - b) for a, z, b in zip(starts, stops, box.offsets, strict=True))
            into = tuple(slice(a - b, z - b) for a, z, b in zip(starts, stops, offsets, strict=True))
            with safetensors.safe_open(box.file, framework="pt") as file:
                whole[into] = file.get_slice(box.key)[inside] if inside else file.get_tensor(box.key)
            num_read += math.prod(stop - start for start, stop in zip(starts, stops, strict=True))
        if num_read < math.prod(sizes):
            raise ValueError(f"a part of {self.name} is in none of the shards")
        return whole


def read_trees(folder: Path, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The trees that were written to `folder`, in this process's share.

    Tensors come whole and on the CPU, except where `like` holds a DTensor (or a tensor on another device) at the same
    place, which gives the layout; below a `Deferred` they stay `StoredTensor`s.

    Raises:
        OSError, ValueError, KeyError: the files are not what was written.
    """
    content = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
    boxes: dict[str, list[_Box]] = {}
    for path in sorted(folder.glob("shard-*.json")):
        for key, entry in json.loads(path.read_text(encoding="utf-8")).items():
            box = _Box(
                file=path.with_suffix(".safetensors"),
                key=key,
                offsets=tuple(entry["offsets"]),
                sizes=tuple(entry["sizes"]),
                dtype=_WORDS[entry["dtype"]],
            )
            boxes.setdefault(entry["tensor"], []).append(box)
    stored = {
        name: StoredTensor(name=name, shape=tuple(shape), boxes=tuple(boxes.get(name, ())))
        for name, shape in content["shapes"].items()
    }
    return _decode(content["tree"], stored, like, deferred=False)


def _decode(value: Any, stored: Mapping[str, StoredTensor], like: Any, *, deferred: bool) -> Any:
    if isinstance(value, list):
        return [_decode(entry, stored, _below(like, number), deferred=deferred) for number, entry in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith("$"):
        return {key: _decode(entry, stored, _below(like, key), deferred=deferred) for key, entry in value.items()}
    inner = value[kind]
    if kind == "$tensor":
        return stored[inner] if deferred else _tensor(stored[inner], like)
    if kind == "$array":
        return stored[inner].read().numpy()
    if kind == "$dtype":
        return _WORDS[inner]
    if kind == "$deferred":
        return Deferred(_decode(inner, stored, None, deferred=True))
    if kind == "$items":
        keys = [_decode(key, stored, None, deferred=deferred) for key, _ in inner]
        entries = zip(keys, inner, strict=True)
        return {key: _decode(pair[1], stored, _below(like, key), deferred=deferred) for key, pair in entries}
    make = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}[kind]
    return make(_decode(inner, stored, like, deferred=deferred))


def _tensor(saved: StoredTensor, like: Any) -> Tensor:
    tensor = laid_out(saved, like)
    return tensor.to(like.device) if isinstance(like, Tensor) and not is_sharded(like) else tensor


def _below(like: Any, key: Any) -> Any:
    if isinstance(like, Mapping):
        return like.get(key)
    if isinstance(like, (list, tuple)) and isinstance(key, int) and key < len(like):
        return like[key]
    return None
