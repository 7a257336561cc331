"""Pictures: a file is one row, with its place and the name of the folder that it lies in."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from danlu.data.formats.base import Format, Found
from danlu.data.rows import Row


class ImageFormat(Format):
    """One row a file: `image`, the path, and `folder`, the name of its folder (its class, in ROOT/CLASS/FILE)."""

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
    pictures: ClassVar[bool] = True

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        if start == 0:
            yield Row(name, 1, {"image": str(path), "folder": path.parent.name})

    def count(self, path: Path, name: str, part_bytes: int | None) -> int:
        return 1
