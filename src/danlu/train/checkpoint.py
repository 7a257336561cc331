"""Checkpoints: what a run goes on from after anything that can happen to it.

`checkpoints/step-000123/` holds the shards (`danlu.dist.shards`) and `manifest.json` with the size and checksum of
each file. A checkpoint is written aside under a hidden name, flushed to the disk, and renamed when it is whole: what
carries a step's name is complete, or was damaged later, which the checksums tell.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.dist.shards import Staged, digest, flush, read_trees, stage, write_shard
from danlu.dist.world import World

_WRITING, _REMOVING, _REPLACED = ".writing-", ".removing-", ".replaced-"
_FORMAT = 1


class Checkpoints:
    """The checkpoints of one run. With several processes, all of them call every method, in the same order.

    Args:
        folder: where they are; made at the first `save`.
        world: the processes that write and read together.
        keep: how many of the newest stay besides the best; 2, so that one is left when the newest is damaged.
        note: told, on the first process, of each checkpoint that is damaged and passed over.
    """

    def __init__(
        self, folder: Path, world: World, *, keep: int = 2, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.folder, self.world, self.keep, self._note = folder, world, keep, note
        self._line: World | None = None
        self._thread: threading.Thread | None = None
        self._error: RunError | None = None
        self._whole: set[Path] = set()
        self._bad: set[Path] = set()

    def save(self, step: int, trees: Mapping[str, Any], *, best: bool = False) -> Path:
        """Copies `trees` to the CPU, then writes them in a thread; returns where they will be.

        What trees may hold, see `danlu.dist.shards.stage`. Waits for the save before it. The cost to the caller is the
        copy: one pass over the tensors, and as much memory until they are written.

        Raises:
            RunError: this or the previous save failed: the disk is full, the folder cannot be written, or another
                process is gone. What was written before still stands.
        """
        self.wait()
        if self._line is None:
            self._line = self.world.apart()
        staged = stage(trees, rank=self.world.rank)
        # With one process a thread that is not a daemon lets an ending interpreter finish the file. With several it
        # might wait for a process that is gone.
        self._thread = threading.Thread(
            target=self._run, args=(step, staged, best), name="checkpoint", daemon=self.world.size > 1
        )
        self._thread.start()
        return self.path_of(step)

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
            RunError: the save that it waited for failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are as they were written; None when there is none."""
        return self._first_whole(self._steps())

    def best(self) -> Path | None:
        """The newest checkpoint saved as best whose files are as they were written; None when there is none."""
        return self._first_whole([path for path in self._steps() if _is_best(path)])

    def load(self, path: Path, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The trees that `save` was given, whatever number of processes wrote them.

        Tensors are whole and on the CPU, or laid out as the tensor at the same place in `like`. What `state_of` made
        stays in the file until `load_state` puts each process's share back.

        Raises:
            RunError: the checkpoint is damaged or is none.
        """
        self.wait()
        problem = self.world.broadcast_object(self._problem(path) if self.world.is_first else None)
        if problem is None:
            try:
                return read_trees(path, like)
            except (OSError, ValueError, KeyError) as error:
                problem = str(error)
        raise RunError(f"this checkpoint is damaged: {problem}", where=str(path), mend="Use another one")

    def _first_whole(self, paths: list[Path]) -> Path | None:
        """The first of them that is not damaged, as the first process sees it."""
        self.wait()
        found = None
        for path in paths if self.world.is_first else []:
            problem = self._problem(path)
            if problem is None:
                found = path
                break
            if path not in self._bad:
                self._bad.add(path)
                self._note(f"{path.name} is damaged ({problem}); the one before it is used")
        return self.world.broadcast_object(found)

    def _steps(self) -> list[Path]:
        """Folders of checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        found: dict[int, Path] = {}
        # In the order of names one that was being replaced comes first, and gives way to the one in its place.
        for path in sorted(self.folder.iterdir()):
            name = path.name.removeprefix(_REPLACED)
            if name.startswith("step-") and name[5:].isdigit():
                found[int(name[5:])] = path
        return [found[step] for step in sorted(found, reverse=True)]

    def _problem(self, path: Path) -> str | None:
        """What is wrong with a checkpoint's files, or None."""
        if path in self._whole:
            return None
        problem = check(path)
        if problem is None:
            self._whole.add(path)
        return problem

    def _run(self, step: int, staged: Staged, best: bool) -> None:
        """The thread: every process writes its shard; the first completes the checkpoint, or takes it back."""
        try:
            self._write(step, staged, best)
        except RunError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001  a thread has no caller: it must be heard at the next call
            self._error = RunError(f"the checkpoint of step {step} could not be written: {error!r}", where="checkpoint")

    def _write(self, step: int, staged: Staged, best: bool) -> None:
        assert self._line is not None
        line, aside = self._line, self.folder / f"{_WRITING}{self.path_of(step).name}"
        problem = line.broadcast_object(_attempt(lambda: self._prepare(aside)) if line.is_first else None)
        if problem is None:
            shard: dict[str, Any] = {}
            mine = _attempt(lambda: shard.update(write_shard(aside, staged, rank=line.rank)))
            told = line.gather_objects((mine, shard))
            problem = next((wrong for wrong, _ in told if wrong is not None), None)
        if problem is None:
            files = {name: entry for _, written in told for name, entry in written.items()}
            finish = _attempt(lambda: self._complete(step, aside, files, best)) if line.is_first else None
            problem = line.broadcast_object(finish)
        if problem is not None:
            if line.is_first:
                shutil.rmtree(aside, ignore_errors=True)
            raise self._failure(step, problem, staged.num_bytes)

    def _prepare(self, aside: Path) -> None:
        """An empty folder to write to; what a crash left behind goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.iterdir():
            if left.name.startswith((_WRITING, _REMOVING)):
                shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()

    def _complete(self, step: int, aside: Path, files: Mapping[str, Any], best: bool) -> None:
        manifest = {"format": _FORMAT, "step": step, "best": best, "processes": self.world.size, "files": dict(files)}
        manifest["seal"] = _seal(manifest)
        with (aside / "manifest.json").open("wb") as file:
            file.write(json.dumps(manifest, indent=1).encode())
            flush(file)
        _flush_folder(aside)
        final = self.path_of(step)
        self._whole.discard(final)
        self._bad.discard(final)
        replaced = final.with_name(f"{_REPLACED}{final.name}")
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        aside.rename(final)
        _flush_folder(self.folder)
        self._whole.add(final)
        self._thin_out()

    def _thin_out(self) -> None:
        """Removes what is neither among the newest nor the newest best."""
        steps = self._steps()
        for path in self.folder.glob(f"{_REPLACED}*"):
            if path not in steps:
                self._remove(path)
        best = next((path for path in steps if _is_best(path)), None)
        for path in steps[self.keep :]:
            if path != best:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Renames before it deletes: half a checkpoint must not carry a step's name."""
        self._whole.discard(path)
        aside = path.with_name(f"{_REMOVING}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _failure(self, step: int, problem: tuple[int | None, str], num_bytes: int) -> RunError:
        number, text = problem
        last = next(iter(self._steps()), None)
        stands = f"; {last.name} still stands" if last is not None else ""
        go_on = "go on with --resume" if last is not None else "start again"
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return RunError(
                f"the disk is full: the checkpoint of step {step} needs {_in_words(num_bytes)}{stands}",
                where=str(self.folder),
                mend=f"Make room and {go_on}",
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            return RunError(
                f"the folder cannot be written to ({os.strerror(number)}){stands}",
                where=str(self.folder),
                mend=f"Allow writing there, or choose another folder with --out, and {go_on}",
            )
        return RunError(f"the checkpoint of step {step} could not be written: {text}{stands}", where=str(self.folder))


def check(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in words, or None. Reads them all."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        files, seal = dict(manifest["files"]), manifest.pop("seal")
    except FileNotFoundError:
        return "manifest.json is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"
    if seal != _seal(manifest):
        return "manifest.json was altered"
    for name, expected in files.items():
        file = path / name
        try:
            # The size first: it costs nothing, and says more than a checksum.
            size = file.stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
            if digest(file) != expected:
                return f"{name} was altered"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _attempt(work: Callable[[], None]) -> tuple[int | None, str] | None:
    """Does it, and returns what went wrong as (errno, text), which every process can be told."""
    try:
        work()
    except OSError as error:
        return error.errno, str(error)
    except Exception as error:  # noqa: BLE001  the other processes wait for this one's word, whatever happened
        return None, repr(error)
    return None


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of what the manifest says, so that it vouches for itself too."""
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()


def _is_best(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return bool(json.loads((path / "manifest.json").read_text(encoding="utf-8"))["best"])
    return False


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _in_words(num_bytes: int) -> str:
    amount = float(num_bytes)
    for unit in ("bytes", "KB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
