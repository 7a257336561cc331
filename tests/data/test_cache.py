import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import DataError, RequestError, RunError
from danlu.data.cache import encode_cached
from danlu.data.columns import Columns
from danlu.data.examples import column_of
from danlu.data.sources import open_source
from danlu.data.split import split_source
from danlu.data.text import TextEncoder
from tests.data import encoders

TEXT = Columns(kind="text", by_role={"text": "text"})


@pytest.fixture
def folder(write, tmp_path):
    """Eight files of fifty rows."""
    for file in range(8):
        write(f"rows/{file}.jsonl", [{"text": f"{file}:{row} " + "x" * row} for row in range(50)])
    return str(tmp_path / "rows")


def contents(examples):
    return [examples[at]["input_ids"].tobytes().decode("utf-32-le") for at in range(len(examples))]


def test_rows_become_examples_in_order(folder, cache):
    examples = encode_cached(open_source(folder, cache=cache), encoders.count_letters, key="k")
    assert contents(examples) == [f"{file}:{row} " + "x" * row for file in range(8) for row in range(50)]
    assert examples.skipped.count == examples.truncated.count == 0


def test_several_processes_give_the_same(folder, cache, tmp_path):
    source = open_source(folder, cache=cache)
    alone = encode_cached(source, encoders.count_letters, key="k", workers=1)
    together = encode_cached(source, encoders.count_letters, key="k", workers=3, folder=tmp_path / "other")
    assert contents(alone) == contents(together)
    assert alone.fingerprint == together.fingerprint
    assert alone.meta.files == together.meta.files == tuple((f"{folder}/{at}.jsonl", 50) for at in range(8))
    for name in ("input_ids.values", "input_ids.ends", "size.values"):
        assert (alone.folder / name).read_bytes() == (together.folder / name).read_bytes()
    assert sorted(path.name for path in together.folder.iterdir()) == sorted(
        path.name for path in alone.folder.iterdir()
    )


def test_examples_know_which_source_they_come_from(folder, write, cache):
    one = write("one.jsonl", [{"text": "a"}, {"text": 3}, {"text": "b"}])
    source = open_source([str(one), folder, str(one)], cache=cache)
    train, valid = split_source(source, "20%", seed=0)
    parts = [encode_cached(part, encoders.count_letters, key="k", on_bad="skip") for part in (train, valid)]
    for part in parts:
        assert part.column("source").tolist() == [
            1 if ":" in text else part.sources[str(one)] for text in contents(part)
        ]
    assert sum((part.column("source") == 1).sum() for part in parts) == 400
    alone = encode_cached(open_source(folder, cache=cache), encoders.count_letters, key="k")
    assert column_of(alone, "source").tolist() == [0] * 400
    with pytest.raises(RequestError, match="do not tell their label"):
        column_of(alone, "label")


def test_examples_of_an_older_version_are_made_anew_when_their_sources_matter(folder, write, cache):
    one = write("one.jsonl", [{"text": "a"}])
    source = open_source([str(one), folder], cache=cache)
    path = encode_cached(source, encoders.count_letters, key="k").folder / "meta.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name != "files"}
    path.write_text(json.dumps(old))
    assert encode_cached(source, encoders.count_letters, key="k").column("source").tolist() == [0] + [1] * 400


def test_a_lone_large_file_is_shared_among_processes(write, cache, tmp_path, tokenizer):
    """Rows of a table, and parts of one document, which must be joined again across processes."""
    rows = [{"text": f"row {n} " * (n % 50 + 1)} for n in range(4000)]
    lines = "".join("oops\n" if n % 700 == 5 else json.dumps(row) + "\n" for n, row in enumerate(rows))
    encoder = TextEncoder(tokenizer, TEXT, context=64)
    book = "".join(f"line {n} of the furnace's log, 丹炉\n\n" for n in range(30_000))
    for path, on_bad in ((write("rows.jsonl", lines), "skip"), (write("book.txt", book), "refuse")):
        source = open_source(str(path), cache=cache)
        for part in (source, split_source(source, "30%", 0)[0]):
            options = {"key": encoder.key, "on_bad": on_bad}
            alone = encode_cached(part, encoder, folder=tmp_path / "alone", workers=1, **options)
            together = encode_cached(part, encoder, folder=tmp_path / "together", workers=2, **options)
            for name in ("input_ids.values", "input_ids.ends", "num_bytes.values", "meta.json"):
                assert (alone.folder / name).read_bytes() == (together.folder / name).read_bytes()


def test_nothing_is_done_twice(folder, cache):
    asked = []

    def encode(fields):
        asked.append(fields)
        return encoders.count_letters(fields)

    for _ in range(2):
        encode_cached(open_source(folder, cache=cache), encode, key="k")
    assert len(asked) == 400
    encode_cached(open_source(folder, cache=cache), encode, key="other")
    assert len(asked) == 800
    with Path(folder, "0.jsonl").open("a") as file:
        file.write('{"text": "new"}\n')
    encode_cached(open_source(folder, cache=cache), encode, key="k")
    assert len(asked) == 1201


def test_a_damaged_cache_is_made_again(folder, cache):
    source = open_source(folder, cache=cache)
    examples = encode_cached(source, encoders.count_letters, key="k")
    whole = (examples.folder / "input_ids.values").read_bytes()
    (examples.folder / "input_ids.values").write_bytes(whole[:-40])
    assert contents(encode_cached(source, encoders.count_letters, key="k"))[-1] == "7:49 " + "x" * 49


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_rows(write, tmp_path, cache, workers):
    write("rows/a.jsonl", [{"text": "a"}, {"text": 5}, {"text": "b"}])
    write("rows/b.jsonl", '{"text": "c"}\n{oops\n{"text": "none"}\n{"text": "twice"}\n')
    source = open_source(str(tmp_path / "rows"), cache=cache)
    with pytest.raises(DataError) as told:
        encode_cached(source, encoders.count_letters, key="k", workers=workers)
    assert str(told.value) == (
        f"{tmp_path}/rows/a.jsonl, row 2, field text: is no text. "
        "Write words, or set data.on_bad: skip to go on without it."
    )
    assert list((cache / "examples").glob("nothing")) == []
    listed = []
    for _ in range(2):  # the second time from the cache
        listed.clear()
        examples = encode_cached(
            source, encoders.count_letters, key="k", workers=workers, on_bad="skip", on_skip=listed.append
        )
        assert contents(examples) == ["a", "b", "c", "twice", "twice"]
        assert examples.skipped.count == 2
        assert [(Path(str(row["file"])).name, row["row"], row["field"]) for row in listed] == [
            ("a.jsonl", 2, "text"),
            ("b.jsonl", 2, ""),
        ]
        assert listed[0]["problem"] == "is no text"
    with pytest.raises(DataError, match=r"a.jsonl, row 2, field text"):  # what was skipped before is refused now
        encode_cached(source, encoders.count_letters, key="k")


def test_a_source_without_a_usable_row(write, cache):
    nothing = open_source(str(write("a.jsonl", "")), cache=cache)
    with pytest.raises(DataError, match="gives no examples, it holds no rows"):
        encode_cached(nothing, encoders.count_letters, key="k")
    bad = open_source(str(write("b.jsonl", [{"text": 1}, {"text": 2}])), cache=cache)
    with pytest.raises(DataError, match=r"all of its 2 rows are bad; the first: .*b.jsonl, row 1, text is no text"):
        encode_cached(bad, encoders.count_letters, key="k", on_bad="skip")


def test_a_dead_worker_and_a_fault_are_told(folder, cache):
    source = open_source(folder, cache=cache)
    with pytest.raises(RunError, match=r"ended with code -9 .likely for want of memory.*data.workers"):
        encode_cached(source, encoders.die, key="k", workers=2)
    with pytest.raises(RunError, match="LookupError: a fault of the program"):
        encode_cached(source, encoders.fail, key="k", workers=2)
    with pytest.raises(LookupError):
        encode_cached(source, encoders.fail, key="k", workers=1)
    assert not [path for path in (cache / "examples").iterdir() if path.is_dir()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_leaves_nothing(folder, cache, workers):
    """A limit on the size of files is a full disk that a test may have."""

    def encode():
        source = open_source(folder, cache=cache)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            encode_cached(source, encoders.count_letters, key="k", workers=workers)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.raises(RunError, match=r"the disk is full; nothing half-written.*data.cache"):
        encode()
    assert not [path for path in (cache / "examples").iterdir() if path.is_dir()]
    encode_cached(open_source(folder, cache=cache), encoders.count_letters, key="k")


def test_a_cache_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match=r"cannot write here .*data.cache"):
        encode_cached(open_source(folder, cache=tmp_path / "file" / "cache"), encoders.count_letters, key="k")


def test_processes_that_ask_at_once_share_the_work(folder, cache):
    script = (
        "import sys; from tests.data import encoders\n"
        "from danlu.data.cache import encode_cached; from danlu.data.sources import open_source\n"
        f"made = []\n"
        "def encode(fields):\n    made.append(1)\n    return encoders.count_letters(fields)\n"
        f"examples = encode_cached(open_source({folder!r}, cache={str(cache)!r}), encode, key='k')\n"
        "print(len(made), len(examples))"
    )
    paths = os.pathsep.join(sys.path)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        for _ in range(2)
    ]
    said = sorted(process.communicate()[0].split()[0] for process in both)
    assert said == ["0", "400"]


def test_documents_in_parts_become_whole_again(write, cache, tokenizer):
    text = "".join(f"line {n} of the furnace's log, 丹炉\n" for n in range(3000))
    source = open_source(str(write("a.txt", text)), cache=cache)
    encoder = TextEncoder(tokenizer, TEXT, context=64)
    examples = encode_cached(source, encoder, key=encoder.key)
    assert len(examples) == 1
    assert len(list(source)) > 20
    assert tokenizer.decode(examples[0]["input_ids"]) == "<|bos|>" + text + "<|eos|>"
    assert int(examples[0]["num_bytes"]) == len(text.encode())


def test_truncated_rows_are_counted(write, cache, tokenizer):
    source = open_source(str(write("a.jsonl", [{"text": "short"}, {"text": "long " * 50}])), cache=cache)
    encoder = TextEncoder(tokenizer, TEXT, context=16, long="truncate")
    examples = encode_cached(source, encoder, key=encoder.key)
    assert examples.truncated.count == 1
    assert examples.truncated.rows[0]["row"] == 2
    assert np.max(examples.lengths) == 16


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_memory_stays_flat(write, cache):
    """Twenty times the data, the same memory."""
    script = (
        "import sys; from tests.data import encoders\n"
        "from danlu.data.cache import encode_cached; from danlu.data.sources import open_source\n"
        "encode_cached(open_source(sys.argv[1], cache=sys.argv[2]), encoders.count_letters, key='k')\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    peaks = []
    for name, num_rows in (("small.jsonl", 2_000), ("large.jsonl", 40_000)):
        path = write(name, [{"text": "wood " * 100}] * num_rows)
        paths = os.pathsep.join(sys.path)
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), str(cache)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 30  # MB; the large set's examples are 76 MB
