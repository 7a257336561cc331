"""Preference files as people have them, all become the same texts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from danlu.core.errors import DataError
from danlu.data.preferences import PreferenceEncoder, preference_columns
from danlu.data.rows import BadField, Row
from danlu.data.tokenizers import make_tokenizer

Fields = Mapping[str, Any]
ASKED, GOOD, BAD = "What burns?", "Wood.", "Water, of course."


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = [ASKED, GOOD, BAD, "Human: Assistant: steady fire keeps"]
    return make_tokenizer(None, lambda: texts, key="preferences", cache=tmp_path_factory.mktemp("cache"))


def encoded(
    tokenizer: Any, fields: Fields, *, verdicts: bool = False, told: Mapping[str, str] | None = None, **more: Any
) -> Any:
    columns = preference_columns(fields, told=told or {}, where="rows", verdicts=verdicts)
    encoder = PreferenceEncoder(tokenizer, columns, context=more.pop("context", 96), unpair=verdicts, **more)
    [found] = encoder.encode_rows([Row("rows", 1, fields)])
    return found


def texts(tokenizer: Any, example: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """(prompt, completion) of each text."""
    cut = np.cumsum(example["lengths"])[:-1]
    parts = zip(np.split(example["input_ids"], cut), np.split(example["labels_mask"], cut), strict=True)
    return [(tokenizer.decode(ids[~mask]), tokenizer.decode(ids[mask])) for ids, mask in parts]


CONVERSATIONS: dict[str, Fields] = {
    "TRL": {"prompt": [said("user", ASKED)], "chosen": [said("assistant", GOOD)], "rejected": [said("assistant", BAD)]},
    "TRL, prompt inside": {
        "chosen": [said("user", ASKED), said("assistant", GOOD)],
        "rejected": [said("user", ASKED), said("assistant", BAD)],
    },
    "UltraFeedback": {
        "prompt": ASKED,
        "chosen": [said("user", ASKED), said("assistant", GOOD)],
        "rejected": [said("user", ASKED), said("assistant", BAD)],
        "score_chosen": 8.5,
    },
    "LLaMA-Factory, sharegpt": {
        "conversations": [{"from": "human", "value": ASKED}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "hh-rlhf": {
        "chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {BAD}",
    },
    "messages, then texts": {"messages": [said("user", ASKED)], "chosen": GOOD, "rejected": BAD},
}


@pytest.mark.parametrize("fields", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_conversations_are_the_same_whoever_writes_them(tokenizer: Any, fields: Fields) -> None:
    [example] = encoded(tokenizer, fields)
    asked = f"<|bos|><|user|>\n{ASKED}\n<|assistant|>\n"
    (one, good), (two, bad) = texts(tokenizer, example)
    assert (good, bad) == (f"{GOOD}<|eos|>", f"{BAD}<|eos|>")
    assert one.rstrip("\n") == two.rstrip("\n") == asked.rstrip("\n")


def test_plain_texts_stay_plain(tokenizer: Any) -> None:
    alpaca = {"instruction": "What burns?", "input": "", "chosen": GOOD, "rejected": BAD}
    other = {"question": ASKED, "better": GOOD, "worse": BAD}
    tokenizer.chat_template = None
    for fields, told in ((alpaca, {}), (other, {"chosen": "better", "rejected": "worse"})):
        [example] = encoded(tokenizer, fields, told=told)
        (one, good), (two, bad) = texts(tokenizer, example)
        assert one == two == f"<|bos|>{ASKED}\n"
        assert (good, bad) == (f"{GOOD}<|eos|>", f"{BAD}<|eos|>")


def test_only_the_last_answer_counts(tokenizer: Any) -> None:
    before = [said("user", "Steady?"), said("assistant", "Fire."), said("user", ASKED)]
    [example] = encoded(
        tokenizer, {"prompt": before, "chosen": [said("assistant", GOOD)], "rejected": [said("assistant", BAD)]}
    )
    (prompt, good), (_, bad) = texts(tokenizer, example)
    assert (good, bad) == (f"{GOOD}<|eos|>", f"{BAD}<|eos|>")
    assert "Fire." in prompt


VERDICTS: dict[str, Fields] = {
    "TRL": {"prompt": ASKED, "completion": GOOD, "label": True},
    "LLaMA-Factory": {"messages": [said("user", ASKED), said("assistant", GOOD)], "kto_tag": "true"},
}


@pytest.mark.parametrize("fields", VERDICTS.values(), ids=VERDICTS)
def test_completions_with_a_verdict(tokenizer: Any, fields: Fields) -> None:
    [example] = encoded(tokenizer, fields, verdicts=True)
    assert bool(example["desirable"])
    [(_, completion)] = texts(tokenizer, example)
    assert completion == f"{GOOD}<|eos|>"


def test_pairs_are_taken_apart_for_verdicts(tokenizer: Any) -> None:
    one, two = encoded(tokenizer, CONVERSATIONS["TRL"], verdicts=True)
    assert (bool(one["desirable"]), bool(two["desirable"])) == (True, False)
    assert texts(tokenizer, two)[0][1] == f"{BAD}<|eos|>"


def test_what_is_wrong_is_told(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="has no column for 'rejected'"):
        encoded(tokenizer, {"prompt": ASKED, "chosen": GOOD})
    with pytest.raises(DataError, match="has no column for 'prompt'"):
        encoded(tokenizer, {"chosen": GOOD, "rejected": BAD})
    with pytest.raises(DataError, match="has no column for 'completion'"):
        encoded(tokenizer, {"prompt": ASKED, "label": True}, verdicts=True)
    bad = encoded(tokenizer, {**VERDICTS["TRL"], "label": "perhaps"}, verdicts=True)
    assert isinstance(bad, BadField)
    assert bad.problem == "is 'perhaps', no verdict"
    bad = encoded(tokenizer, {**CONVERSATIONS["TRL"], "chosen": []})
    assert isinstance(bad, BadField)
    bad = encoded(tokenizer, CONVERSATIONS["TRL"], context=8)
    assert isinstance(bad, BadField)
    assert "the context holds 8" in bad.problem
