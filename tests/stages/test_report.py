"""The report: one page that stands alone, whatever became of the run."""

import base64
import hashlib
import importlib.util
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from danlu.core.errors import RequestError
from danlu.core.journal import Journal
from danlu.stages.report import load_run, parts, write_report
from danlu.stages.report.charts import MOST_POINTS, Line, chart, thin
from danlu.stages.report.records import Series
from danlu.stages.report.words import count, duration, explained, significant, size, tick

_spec = importlib.util.spec_from_file_location("journals", Path(__file__).with_name("journals.py"))
journals = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(journals)


class Page(HTMLParser):
    """The elements of a page, with their attributes, and the words in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.words).append(data)

    def handle_endtag(self, tag):
        self._inside = ""

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.elements if "id" in attrs}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = journals.full(tmp_path_factory.mktemp("full") / "1")
    return write_report(folder).read_text(encoding="utf-8")


def test_a_finished_run_tells_everything(full):
    page = Page(full)
    assert page.ids() == {
        *("headline", "trained", "samples", "curves", "layers"),
        *("timeline", "spent", "notes", "next", "recipe"),
    }
    words = re.sub(r"\s+", " ", "".join(page.words))
    assert "The budget of 2 minutes is used." in words
    assert "A model of 12.3 M parameters read 4.92 M tokens" in words
    assert "Text it has never seen costs this model 1.62 bits for each byte" in words
    assert "Loss spike" in words
    assert "Learning rate × 0.5" in words
    assert "It helped, and stays" in words
    assert "A row of the data was skipped (2 times)" in words
    assert "lib/old.py, row 71, field text: is not UTF-8 Convert it" in words
    assert "from the checkpoint of step 400" in words


def test_nothing_is_loaded_from_anywhere(full):
    loading = {"src", "href", "data", "action", "poster", "srcset", "xlink:href", "background"}
    for tag, attrs in Page(full).elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "audio", "video", "image", "use"}
        for name in loading & attrs.keys():
            assert (tag, name, attrs[name][0]) == ("a", "href", "#")
    assert not re.search(r"@import|url\(", full)
    assert "https://" not in full
    assert "http://" not in full


def test_only_our_own_script_may_run(full):
    page = Page(full)
    policy = next(attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv"))
    script = re.search(r"<script>(.*?)</script>", full, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    kinds = [attrs.get("type") for tag, attrs in page.elements if tag == "script"]
    assert kinds.count(None) == 1
    assert set(kinds) == {None, "application/json"}


def test_samples_and_data_are_escaped(full):
    assert "<script>alert" not in full
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in full


def test_numbers_beside_charts_are_valid_json(full):
    page = Page(full)
    charts = [json.loads(text) for text in page.scripts if text.lstrip().startswith("{")]
    loss = charts[0]["lines"]
    assert [line["label"] for line in loss] == ["training", "kept aside"]
    assert all(len(line["x"]) == len(line["y"]) == len(line["text"]) for line in loss)


def test_steps_done_again_after_a_resume_count_once(tmp_path):
    run = load_run(journals.full(tmp_path / "1"))
    assert list(run.reading("loss").xs) == list(range(1, 601))
    assert run.status == "finished"


def test_a_failed_run_says_why_at_the_top(tmp_path):
    text = write_report(journals.failed(tmp_path / "1")).read_text(encoding="utf-8")
    top = text[text.index("<header") : text.index("</header>")]
    assert "This run failed." in top
    assert "The loss was not a finite number at step 43" in top
    assert "The loss is nan. The checkpoint of step 40 stands" in top
    assert f"danlu train {tmp_path / '1'} --resume" in text
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', text)).lower()


def test_two_readings_make_a_report(tmp_path):
    text = write_report(journals.tiny(tmp_path / "1")).read_text(encoding="utf-8")
    assert "it is still going on, or it was killed" in text
    assert {"curves", "timeline"} <= Page(text).ids()


@pytest.mark.parametrize("records", [0, 1])
def test_a_run_without_readings_makes_a_report(tmp_path, records):
    journal = Journal(tmp_path / "journal.jsonl")
    if records:
        journal.write("end", 0, status="failed", reason="the disk is full", seconds=0.0)
    journal.close()
    assert ("The disk is full." in write_report(tmp_path).read_text(encoding="utf-8")) == bool(records)


def test_a_folder_without_a_journal_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no journal"):
        write_report(tmp_path)


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "journal.jsonl").write_text("{nonsense\n")
    with pytest.raises(RequestError, match=r"journal\.jsonl"):
        write_report(tmp_path)


def test_parts_are_in_order_and_silent_when_they_have_nothing_to_say(tmp_path):
    found = parts(load_run(journals.tiny(tmp_path / "1")))
    assert [part.order for part in found] == sorted(part.order for part in found)
    assert all(part.body.strip() for part in found)
    assert "samples" not in {part.id for part in found}


def test_thinning_keeps_the_ends_the_mean_and_the_extremes():
    series = Series(xs=tuple(range(10_000)), ys=tuple(float(x % 100) for x in range(10_000)))
    points = thin(series)
    assert len(points.xs) <= MOST_POINTS
    assert points.xs[-1] == 9_999
    assert max(points.highs) == 99.0
    assert sum(points.means) / len(points.means) == pytest.approx(49.5, abs=1.0)


def test_what_is_not_finite_breaks_the_line():
    points = thin(Series(xs=(1.0, 2.0, 3.0), ys=(1.0, math.nan, 2.0)))
    assert points.means == [1.0, None, 2.0]
    assert chart([Line(label="x", series=Series(xs=(1.0,), ys=(math.nan,)))], title="none") is None
    assert chart([Line(label="x", series=Series(xs=(5.0,), ys=(0.0,)))], title="one") is not None


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (count(1234), "1,234"),
        (count(12_345_678), "12.3 M"),
        (count(0), "0"),
        (count(0.5), "0.500"),
        (significant(0.012345), "0.0123"),
        (significant(1.2e-5, 2), "1.2e-5"),
        (significant(-3.14159), "-3.14"),
        (significant(math.inf), "inf"),
        (significant(9.999), "10.0"),
        (duration(75), "1 min 15 s"),
        (duration(3600 * 26), "1 d 2 h"),
        (duration(0.004), "0.0040 s"),
        (size(1_500_000), "1.5 MB"),
        (size(12), "12 bytes"),
        (tick("0.0060 s"), "0.006 s"),
        (tick("9.00"), "9"),
        (tick("1,200"), "1,200"),
        (tick("2.0 GB"), "2 GB"),
    ],
)
def test_numbers_are_written_for_people(made, expected):
    assert made.replace("\N{NO-BREAK SPACE}", " ") == expected


def test_metrics_are_explained():
    assert "1.93 bits" in explained("bits_per_byte", 1.93, {})
    assert "out of 8,192" in explained("perplexity", 41.0, {"vocabulary": 8192})
    assert "broke down" in explained("loss", math.nan, {})
    assert explained("some_new_metric", 1.0, {}) == ""
