from danlu.data.formats.po import PoFormat
from danlu.data.rows import BadRow

FILE = """# A header
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"

#: src/a.c:1
msgid "Open"
msgstr "Öffnen"

#, fuzzy, c-format
msgid "Close"
msgstr "Offen"

msgid "Untranslated"
msgstr ""

msgctxt "menu"
msgid ""
"Two "
"lines\\n\\"quoted\\""
msgstr "Zwei \\tZeilen"
#, c-format
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

#~ msgid "Gone"
#~ msgstr "Weg"
"""


def rows(path, start=0):
    return list(PoFormat().rows(path, path.name, None, start))


def test_translated_entries_are_rows(write):
    found = rows(write("a.po", FILE))
    assert [(row.number, row.fields["msgid"], row.fields["msgstr"]) for row in found] == [
        (7, "Open", "Öffnen"),
        (18, 'Two lines\n"quoted"', "Zwei \tZeilen"),
        (23, "%d file", "%d Datei"),
        (24, "%d files", "%d Dateien"),
    ]
    assert rows(write("a.po", FILE), start=2) == found[2:]


def test_a_half_translated_plural_is_left_out(write):
    assert rows(write("a.po", 'msgid "a"\nmsgid_plural "b"\nmsgstr[0] "x"\nmsgstr[1] ""\n')) == []


def test_what_is_no_line_of_it_is_bad(write):
    good, bad = rows(write("a.po", 'msgid "a"\nmsgstr "b"\n\nmsgit "c"\n'))
    assert good.fields == {"msgid": "a", "msgstr": "b"}
    assert isinstance(bad, BadRow)
    assert (bad.number, bad.problem) == (4, 'is no line of a .po file: msgit "c"')


def test_bytes_that_are_no_utf8(write):
    bad, good = rows(write("a.po", b'msgid "caf\xe9"\n\nmsgid "a"\nmsgstr "b"\n'))
    assert isinstance(bad, BadRow)
    assert "is not UTF-8" in bad.problem
    assert good.fields == {"msgid": "a", "msgstr": "b"}
