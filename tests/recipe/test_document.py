"""YAML as people mean it."""

import math

import pytest
import yaml

from danlu.core.errors import RequestError
from danlu.recipe import document

TRICKY = {
    "number": "1e-3",
    "off": "off",
    "yes": "yes",
    "true": True,
    "nothing": None,
    "share": "5%",
    "small": 1e-5,
    "time": "1:30",
    "date": "2024-01-01",
    "octal": "010",
    "new_octal": "0o7",
    "colon": "a: b",
    "lines": "é\n x",
    "equals": "=",
    "merge": "<<",
    "empty": "",
    "list": [1, 2.5, "a"],
}


def test_numbers_and_words_are_what_they_look_like() -> None:
    text = (
        "a: 1e-3\nb: off\nc: 5%\nd: 010\ne: [1_000, .5, -1e5, 0x1f, ~]\nf:\ng: 1:30\nh: '1e-3'\ni: 3.\nj: yes\nk: true"
    )
    assert document.parse(text, source="r") == {
        "a": 0.001,
        "b": "off",
        "c": "5%",
        "d": 10,
        "e": [1000, 0.5, -100000.0, 31, None],
        "f": None,
        "g": "1:30",
        "h": "1e-3",
        "i": 3.0,
        "j": "yes",
        "k": True,
    }
    assert math.isinf(document.parse("-.inf", source="r"))  # type: ignore[arg-type]


def test_what_is_written_reads_back_here_and_in_yaml_1_1() -> None:
    text = document.dump(TRICKY)
    assert document.parse(text, source="r") == TRICKY
    assert yaml.safe_load(text) == TRICKY


@pytest.mark.parametrize(
    ("text", "place", "mend"),
    [
        ("a: [1,\nb: 2", "line 2, column 5", "bracket"),
        ("a: 1\n  b: 2\n", "line 2, column 4", "indent"),
        ("a:\n\t- b", "line 2, column 1", "spaces, not with tabs"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4", "Keep one"),
        ("a: {x: 1, x: 2}", "line 1", "Keep one"),
        ("a: 'x\n", "line 2, column 1", "quotes"),
        ("a: *b", "line 1, column 4", "Look at this line"),
    ],
)
def test_an_error_names_line_and_column(text: str, place: str, mend: str) -> None:
    with pytest.raises(RequestError) as caught:
        document.parse(text, source="recipe.yaml")
    assert str(caught.value).startswith(f"recipe.yaml, {place}")
    assert mend in str(caught.value)


def test_lines_of_keys_and_entries() -> None:
    found = document.lines("a:\n  b: 1\n  c:\n  - x: 1\n  - y\n")
    assert found == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 4, ("a", "c", 1): 5, ("a", "c", 0, "x"): 4}


def test_an_override_that_is_no_yaml_is_text() -> None:
    assert document.parse_value("3e-4") == 3e-4
    assert document.parse_value("{steps: 5}") == {"steps": 5}
    assert document.parse_value("[a") == "[a"
    assert document.parse_value("") is None
