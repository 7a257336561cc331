import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.core.errors import RequestError
from danlu.data.places import cache_folder, one_builder, telling_disk_troubles, write_text_whole, written_aside


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "danlu"
    assert cache_folder("here") == Path("here")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "danlu"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ZeroDivisionError), written_aside(target) as aside:
        (aside / "half").write_text(f"{1 / 0}")
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with written_aside(target) as aside:
            (aside / "file").write_text(content)
            assert not target.exists() or (target / "file").read_text() == "first"
    assert (target / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_leftovers_of_a_crash_go(tmp_path):
    left = tmp_path / ".made.12345678.aside"
    left.mkdir()
    with written_aside(tmp_path / "made"):
        pass
    assert not left.exists()


def test_a_second_builder_waits_until_the_first_is_done_or_dead(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from danlu.data.places import one_builder\n"
        f"with one_builder(Path({str(tmp_path / 'made')!r})):\n    print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    killed_after = 0.3
    started = time.monotonic()
    killer = subprocess.Popen(
        [sys.executable, "-c", f"import time, os; time.sleep({killed_after}); os.kill({other.pid}, 9)"]
    )
    with one_builder(tmp_path / "made"):
        assert time.monotonic() - started > killed_after
    killer.wait()
    other.communicate()


def test_a_small_file_is_replaced_whole(tmp_path):
    write_text_whole(tmp_path / "deep" / "a.json", "one")
    write_text_whole(tmp_path / "deep" / "a.json", "two")
    assert [path.read_text() for path in (tmp_path / "deep").iterdir()] == ["two"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match=r"cannot write here.*data.cache"), telling_disk_troubles(tmp_path / "file"):
        (tmp_path / "file" / "cache").mkdir(parents=True)
