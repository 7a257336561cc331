"""The installation: what the command line imports at once, and what a new environment weighs."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GIGABYTE = 1e9
HEAVY = ("torch", "transformers", "datasets", "pandas", "pyarrow")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["generate", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\nfrom danlu.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_new_environment_is_small_and_works(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "site", "runs", "build"))
    subprocess.run([*pip, "--constraint", source / "constraints.txt", source], check=True, timeout=1200)
    probe = "import torch; print(torch.version.cuda or '')"
    has_cuda = subprocess.run(
        [python, "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.strip()
    size = sum(file.lstat().st_size for file in (tmp_path / "env").rglob("*") if file.is_file())
    print(f"a new environment weighs {size / GIGABYTE:.2f} GB")  # noqa: T201
    if has_cuda:
        pytest.skip("this index offers torch with CUDA, whose libraries alone are larger than the limit")
    assert size < 2 * GIGABYTE
    danlu, recipe = tmp_path / "env" / "bin" / "danlu", source / "recipes" / "python-gpt.yaml"
    told = subprocess.run([danlu, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert told.startswith("danlu ")
    small = ["model.design.layers=1", "train.budget={steps: 2}", "train.batch.tokens=1024"]
    subprocess.run([danlu, "train", recipe, "--quiet", "--out", "run", *small], check=True, cwd=tmp_path, timeout=600)
    assert (tmp_path / "run" / "report.html").exists()
