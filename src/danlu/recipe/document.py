"""A recipe's YAML as people mean it: numbers such as 1e-3, `off` as a word, duplicate keys refused, lines remembered.

PyYAML follows YAML 1.1, where `1e-3` is a text, `off` is false and `1:30` is ninety. Recipes follow the core schema of
YAML 1.2 (yaml.org/spec/1.2.2, section 10.3), with underscores allowed in numbers (`8_192`) and without `.nan`, which is
no value for anything here.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from danlu.core.errors import RequestError
from danlu.recipe.problems import Place

_RESOLVERS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", "<<", "<"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        if node.flow_style:
            node.value = _with_ranges(node.value)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: dict[str, int] = {}
        for key, _value in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in seen and name != "<<":
                mend = "Keep one of the two"
                raise RequestError(
                    f"the key {name!r} is already given in line {seen[name]}", where=f"line {line}", mend=mend
                )
            seen[name] = line
        return super().construct_mapping(node, deep=True)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        # PyYAML would read 010 as eight, in the manner of YAML 1.1
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 16) if text.lower().lstrip("+-").startswith("0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def _with_ranges(pairs: list[tuple[yaml.Node, yaml.Node]]) -> list[tuple[yaml.Node, yaml.Node]]:
    """Keeps a range in one piece: in `{lr: log(1e-5, 1e-2)}` YAML takes the comma for the end of the value."""
    kept: list[tuple[yaml.Node, yaml.Node]] = []
    for key, value in pairs:
        before = kept[-1][1] if kept else None
        if _is_open(before) and isinstance(key, yaml.ScalarNode) and key.value.endswith(")") and value.value == "":
            before.value += f", {key.value}"  # type: ignore[union-attr]
        else:
            kept.append((key, value))
    return kept


def _is_open(node: yaml.Node | None) -> bool:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return plain and node.value.count("(") > node.value.count(")")  # type: ignore[union-attr]


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or our loader would take for something else, so that both read it back."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])
_Dumper.add_representer(tuple, lambda dumper, data: dumper.represent_list(data))


def parse(text: str, *, source: str) -> object:
    """The document that `text` holds.

    Raises:
        RequestError: it is not YAML, or a key is there twice; the message names line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise RequestError(_said(error), where=_place(source, error.problem_mark), mend=_hint(error)) from None
    except yaml.YAMLError as error:
        raise RequestError(f"this is not YAML: {str(error).splitlines()[0]}", where=source) from None
    except RequestError as error:
        raise RequestError(error.problem, where=f"{source}, {error.where}", mend=error.mend) from None


def parse_value(text: str) -> object:
    """The value of one override, such as `1e-3`, `[a, b]` or `{steps: 5}`; what is not YAML is taken as text."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def dump(value: object) -> str:
    """YAML in the order given; short lists and sections on one line, everything readable by `parse`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)


def lines(text: str) -> dict[Place, int]:
    """Place of every key and list entry → the line where it is written."""
    root = yaml.compose(text, _Loader)
    found: dict[Place, int] = {}
    waiting: list[tuple[Place, yaml.Node]] = [((), root)] if root else []
    while waiting:
        place, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            entries = [(str(key.value), key.start_mark, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            entries = [(number, value.start_mark, value) for number, value in enumerate(node.value)]  # type: ignore[misc]
        else:
            continue
        for name, mark, value in entries:
            found[(*place, name)] = mark.line + 1
            waiting.append(((*place, name), value))
    return found


def _place(source: str, mark: yaml.Mark | None) -> str:
    return f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source


def _said(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return "this is not YAML: " + ", ".join(parts)


def _hint(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if "\\t" in problem or "'\t'" in problem:
        return "Indent with spaces, not with tabs"
    if "mapping values" in problem:
        return "A text that holds ': ' needs quotes; keys of one section need the same indent"
    if "expected ',' or" in problem:
        return "A bracket opened before is not closed"
    return "Look at this line and the one above it: indent, quotes, brackets and the space after each colon"
