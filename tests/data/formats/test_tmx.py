import tracemalloc

from danlu.data.formats.tmx import TmxFormat
from danlu.data.rows import BadRow

HEAD = '<?xml version="1.0"?>\n<tmx version="1.4"><header srclang="en"><note>none</note></header><body>'
UNIT = '<tu><prop>x</prop><tuv xml:lang="en-US"><seg>{}</seg></tuv><tuv xml:lang="de"><seg>{}</seg></tuv></tu>'


def rows(path, start=0):
    return list(TmxFormat().rows(path, path.name, None, start))


def test_units_are_rows_with_a_column_for_each_language(write):
    codes = 'Press <bpt i="1">&lt;b&gt;</bpt>OK<ept i="1">&lt;/b&gt;</ept> &amp; <hi>go</hi>.'
    path = write("a.tmx", HEAD + UNIT.format(codes, "Weiter") + UNIT.format("two", "zwei") + "</body></tmx>")
    assert [(row.number, row.fields) for row in rows(path)] == [
        (1, {"en-US": "Press OK & go.", "de": "Weiter"}),
        (2, {"en-US": "two", "de": "zwei"}),
    ]
    assert rows(path, start=1) == rows(path)[1:]


def test_what_follows_broken_xml_is_told(write):
    good, bad = rows(write("a.tmx", HEAD + UNIT.format("one", "eins") + "<tu><oops></tu>"))
    assert good.fields["de"] == "eins"
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    assert "is not XML from here on" in bad.problem


def test_memory_stays_flat(write):
    path = write("a.tmx", HEAD + "\n".join(UNIT.format(f"word {at} " * 20, "Wort " * 20) for at in range(9000)))
    tracemalloc.start()
    assert sum(1 for _ in TmxFormat().rows(path, path.name, None)) == 9001  # the file ends too early: one bad row
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2
