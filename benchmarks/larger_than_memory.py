"""Data four times larger than the memory that a process may have: `python benchmarks/larger_than_memory.py`.

Makes texts, a table and pictures of TIMES × LIMIT bytes under OUT, and trains on each for a few steps in a process
whose writable memory (heap and anonymous maps, RLIMIT_DATA) may not pass LIMIT; data mapped from files does not count.
Prints the bytes of the data, the limit, and the most memory that the process held.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

PIXELS = 400


def texts(out: Path, num_bytes: int) -> str:
    """Files of 8 MB: the standard library's lines, shuffled anew for each."""
    lines = _lines()
    for number, draw in enumerate(_draws(num_bytes, 8_000_000)):
        (out / f"{number}.txt").write_text("".join(draw.choices(lines, k=8_000_000 // 36))[:8_000_000])
    return str(out)


def table(out: Path, num_bytes: int) -> str:
    """One CSV file of texts and labels."""
    lines, path = _lines(), out / "table.csv"
    with path.open("w") as file:
        file.write("text,label\n")
        for draw in _draws(num_bytes, 1_000_000):
            for _ in range(1_000):
                text = " ".join("".join(draw.choices(lines, k=28)).split()).replace('"', "'")
                file.write(f'"{text[:1000]}",{draw.choice(("yes", "no"))}\n')
    return str(path)


def pictures(out: Path, num_bytes: int) -> str:
    """A folder of noisy pictures for each of two labels."""
    import numpy as np
    from PIL import Image

    for number, draw in enumerate(_draws(num_bytes, PIXELS * PIXELS * 3)):
        folder = out / ("bright" if number % 2 else "dark")
        folder.mkdir(exist_ok=True)
        low, noise = 100 * (number % 2), np.random.default_rng(draw.randrange(2**31))
        pixels = noise.integers(low, low + 150, (PIXELS, PIXELS, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=0)
    return str(out)


KINDS: dict[str, tuple[Callable[[Path, int], str], dict[str, object]]] = {
    "texts": (texts, {"task": "text-generation", "model": "llama"}),
    "table": (table, {"task": "text-classification", "model": "bert"}),
    "pictures": (pictures, {"task": {"kind": "image-classification", "image_size": 64}, "model": "vit"}),
}


def _draws(num_bytes: int, each: int) -> list[random.Random]:
    return [random.Random(number) for number in range(-(-num_bytes // each))]


def _lines() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return [line for path in sorted(root.glob("*.py")) for line in path.open(errors="replace") if line.strip()]


def _recipe(source: str, kind: dict[str, object], cache: Path) -> dict[str, object]:
    tokenizer = {} if "image" in str(kind["task"]) else {"tokenizer": {"train": "bpe", "size": 2048}, "context": 256}
    return {
        "task": kind["task"],
        "data": {"train": source, "valid": "1%", "cache": str(cache), **tokenizer},
        "model": {"design": {"family": kind["model"], "layers": 2, "width": 64, "heads": 2}},
        "train": {"budget": {"steps": 20}, "batch": {"examples": 16}},
    }


def train(recipe: str, limit: int, out: str) -> None:
    """The process under the limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import danlu

    danlu.train(danlu.Recipe.model_validate(json.loads(recipe)), out=Path(out))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line).split()[1])
    print(json.dumps({"resident": peak, "data": held * 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".data/larger"))
    parser.add_argument("--limit-mb", type=int, default=800)
    parser.add_argument("--times", type=float, default=4.0)
    parser.add_argument("--only", choices=list(KINDS), nargs="*", default=list(KINDS))
    parser.add_argument("--child", nargs=3, metavar=("RECIPE", "LIMIT", "RUN"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        train(asked.child[0], int(asked.child[1]), asked.child[2])
        return
    for name in asked.only:
        _measure(name, asked.out / name, asked.limit_mb * 10**6, asked.times)


def _measure(name: str, out: Path, limit: int, times: float) -> None:
    (make, kind), folder = KINDS[name], out / "data"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        make(folder, int(times * limit))
    source = str(folder / "table.csv") if name == "table" else str(folder)
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    recipe = json.dumps(_recipe(source, kind, out / "cache"))
    command = [sys.executable, __file__, "--child", recipe, str(limit), str(out / f"run-{os.getpid()}")]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: did not train under a limit of {limit / 1e6:.0f} MB")
    said = json.loads(done.stdout.splitlines()[-1])
    of_limit = f"{num_bytes / limit:.1f} times the limit of {limit / 1e6:.0f} MB"
    print(
        f"{name}: {num_bytes / 1e6:.0f} MB of data, {of_limit}; at most {said['resident'] / 1e6:.0f} MB resident, ",
        end="",
    )
    print(f"{said['data'] / 1e6:.0f} MB writable at the end, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
