"""Search: rows encoded, a small run from train to report and predict, hard negatives, and a large corpus."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from danlu.core.errors import DataError, RequestError
from danlu.data.cache import encode_cached
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.data.sources import open_source
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks import _search_index
from danlu.tasks.base import Prepared
from danlu.tasks.search import Search

from .conftest import Row

Write = Callable[[str, list[Row]], str]

THINGS = ("ball", "boat", "bell", "bird", "lamp", "leaf", "ring", "rope", "sand", "shoe", "tent", "tree")
COLOURS = ("red", "blue", "green", "white", "black", "grey")


def pairs(count: int, seed: int) -> list[Row]:
    """What is asked names a thing and a colour; what is right says both in other words."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        thing, colour = draw.choice(THINGS), draw.choice(COLOURS)
        document = f"{thing.upper()} painted {colour.upper()}"
        wrong = f"{thing.upper()} painted {draw.choice([other for other in COLOURS if other != colour]).upper()}"
        rows.append({"query": f"a {colour} {thing}", "document": document, "negative": wrong, "module": thing[0]})
    return rows


def median_rank(ranks: Sequence[np.ndarray], documents: int) -> float:
    """A metric of the user's own."""
    assert documents >= max(int(entry.max()) for entry in ranks)
    return float(np.median([entry.min() for entry in ranks]))


def tree(data: dict[str, Any], **task: Any) -> Any:
    return {
        "name": "tiny",
        "task": {"kind": "search", **task},
        "data": {"context": 16, "tokenizer": {"train": "bpe", "size": 400}, "valid": "20%", **data},
        "model": {"design": {"family": "bert", "layers": 1, "width": 32, "heads": 2}},
        "train": {
            "budget": {"epochs": 12},
            "batch": {"examples": 32},
            "optimizer": {"lr": 5e-3},
            "evaluate_every": {"epochs": 12},
            "precision": "fp32",
        },
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(task: Search, path: str, **data: Any) -> Prepared:
    given = {"valid": "20%", "context": 16, "tokenizer": TokenizerConfig(train="bpe", size=400), **data}
    return task.prepare(DataConfig(train=path, **given), seed=0, base=None, say=lambda _text: None)


def test_texts_are_framed_and_negatives_have_their_places(write: Write) -> None:
    rows = [{"q": "a red ball", "document": "BALL", "negatives": ["BOAT", "BELL", "BIRD"]}]
    rows += [
        {"q": "a blue boat", "document": "BOAT", "negatives": None},
        {"q": "x", "document": "BALL", "negatives": "y"},
    ]
    task = Search(negatives=2, query_prefix="query: ")
    data = prepare(task, write("a.jsonl", rows * 5), columns={"query": "q"}, valid=write("b.jsonl", rows))
    batch = task.collate([data.valid[at] for at in range(3)], torch.arange(3))
    assert batch.labels["document_keys"].shape == (3, 3)
    assert (batch.labels["document_keys"] < 0).tolist() == [[False] * 3, [False, True, True], [False, False, True]]
    assert batch.labels["document_keys"][0, 0] == batch.labels["document_keys"][2, 0]
    words = data.tools.decode(batch.inputs["query_ids"][0].tolist(), skip_special_tokens=True)
    assert words.strip() == "query: a red ball"
    assert batch.inputs["document_mask"].sum((1, 2)).tolist() == [
        int(tokens) - int(query)
        for tokens, query in zip(batch.tokens_B, batch.inputs["query_mask"].sum(1), strict=True)
    ]


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        ({}, {"query": "a", "document": ""}, "row 4, field document: holds no text"),
        ({}, {"query": "a", "document": 3}, "row 4, field document"),
        ({}, {"query": "a", "document": "b", "negative": [3]}, "row 4, field negative"),
        ({"long": "refuse"}, {"query": "a", "document": "word " * 40}, "longer than the context of 16 tokens"),
    ],
)
def test_a_bad_row_is_named(write: Write, options: dict[str, Any], row: Row, message: str) -> None:
    good = [{"query": "a", "document": "b", "negative": []}] * 3
    with pytest.raises(DataError, match=message):
        prepare(Search(), write("a.jsonl", [*good, {"negative": [], **row}]), **options)


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ({"judge": "ndcg"}, {}, "there is no metric 'ndcg'.*ndcg@10"),
        ({}, {"long": "split"}, "data.long"),
        ({}, {"format": "messages"}, "data.format"),
        ({}, {"columns": {"document": "answer"}}, "has no column 'answer'"),
        ({"dims": [64]}, {}, "task.dims"),
    ],
)
def test_what_cannot_be_asked_is_told(
    write: Write, tmp_path: Path, task: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    path = write("a.jsonl", pairs(30, 0))
    with pytest.raises(RequestError, match=message):
        train(read_tree(tree({"train": path, **data}, **task)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(320, 0)))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(60, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        own = ["tests.tasks.test_search:median_rank"]
        given = tree({"train": str(folder / "pairs.jsonl")}, symmetric=True, dims=[32, 8], metrics=own)
        return train(read_tree(given), out=folder / "run")


def test_a_run_learns_and_says_how_well(run: Path) -> None:
    records = lines(run / "journal.jsonl")
    found = [record for record in records if record["kind"] == "evaluation"][-1]
    assert found["metrics"]["ndcg@10"] > 0.8
    assert found["metrics"]["ndcg@10_dim_8"] > 0.5
    assert 1 <= found["metrics"]["median_rank"] < 2
    assert {row[0] for row in found["tables"]["per_slice"]["rows"]} >= {"b", "l", "queries to 8 tokens"}
    page = (run / "report.html").read_text()
    assert "What was found" in page
    assert found["tables"]["rankings"][0]["query"] in page


def test_the_model_is_plain_transformers_and_says_how_to_pool(run: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    modules = json.loads((run / "model" / "modules.json").read_text())
    pooling = json.loads((run / "model" / "1_Pooling" / "config.json").read_text())
    assert [entry["path"] for entry in modules] == ["", "1_Pooling", "2_Normalize"]
    assert pooling["pooling_mode_mean_tokens"]
    assert pooling["word_embedding_dimension"] == 32
    with torch.no_grad():
        vectors = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0] for text in TEXTS]
    right, wrong = (float(torch.cosine_similarity(vectors[0], other, dim=0)) for other in vectors[1:])
    assert right > wrong


TEXTS = ("a red ball", "BALL painted RED", "TENT painted GREY")


@pytest.fixture
def home(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(run.parent / "cache"))
    return run.parent


def test_predict_ranks_the_training_documents_or_another_corpus(run: Path, home: Path) -> None:
    asked, out = home / "asked.jsonl", home / "found.jsonl"
    asked.write_text(
        "".join(json.dumps({"query": row["query"], "n": at}) + "\n" for at, row in enumerate(pairs(40, 2)))
    )
    assert predict(run, input=asked, out=out, options={"top": 3}) == 40
    found = lines(out)
    assert [row["n"] for row in found] == list(range(40))
    assert all(len({entry["text"] for entry in row["prediction"]}) == 3 for row in found)  # equal ones come once
    right = [row["prediction"][0]["text"] == truth["document"] for row, truth in zip(found, pairs(40, 2), strict=True)]
    assert sum(right) > 25
    indexes = list((home / "cache" / "danlu" / "examples").iterdir())
    other = home / "corpus.csv"
    other.write_text("id,text\nx,BALL painted RED\ny,TENT painted GREY\n")
    predict(run, input=asked, out=out, options={"corpus": str(other), "dim": 8})
    assert {entry["id"] for entry in lines(out)[0]["prediction"]} == {"x", "y"}
    more = list((home / "cache" / "danlu" / "examples").iterdir())
    predict(run, input=asked, out=out, options={"corpus": str(other), "dim": 8})
    assert len(indexes) < len(more) == len(list((home / "cache" / "danlu" / "examples").iterdir()))


def test_predict_says_what_is_wrong(run: Path, home: Path) -> None:
    asked, out = home / "bad.jsonl", home / "never.jsonl"
    asked.write_text('{"query": "a red ball"}\n{"query": null}\n')
    with pytest.raises(DataError, match="row 2, field query"):
        predict(run, input=asked, out=out)
    with pytest.raises(DataError, match="no such file"):
        predict(run, input=asked, out=out, options={"corpus": "./nothing.jsonl"})
    with pytest.raises(RequestError, match="Did you mean 'corpus'"):
        predict(run, input=asked, out=out, options={"korpus": "x"})
    assert not out.exists()


def test_an_untrained_model_is_measured_and_a_trained_one_is_better(run: Path, home: Path) -> None:
    fresh, test = home / "fresh", str(home / "test.jsonl")
    config = AutoModel.from_pretrained(run / "model").config
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(fresh)
    AutoTokenizer.from_pretrained(run / "model").save_pretrained(fresh)
    before = evaluate(fresh, data=test, task="search", overrides={"context": 16})
    after = evaluate(run, data=test, out=home / "metrics.json")
    assert after["ndcg@10"] > before["ndcg@10"] + 0.2
    assert json.loads((home / "metrics.json").read_text())["tables"]["rankings"]


def test_a_large_corpus_is_searched_by_a_graph_that_finds_what_is_nearest(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(3000, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode(fields: Row) -> list[dict[str, np.ndarray]]:
        at = int(str(fields["at"]))
        told = np.frombuffer(b'{"row": 1}', dtype=np.uint8)
        return [{"embedding": vectors[at], "told": told, "key": np.asarray(at)}]

    path = write("many.jsonl", [{"at": at} for at in range(len(vectors))])
    documents = encode_cached(open_source(path), encode, key="many", folder=tmp_path)
    exact = _search_index.Index(documents, str(tmp_path))
    monkeypatch.setattr(_search_index, "LARGEST_EXACT", 1000)
    graph, again = (_search_index.Index(documents, str(tmp_path)) for _ in range(2))
    assert graph.recall == again.recall >= 0.95
    queries = draw.normal(size=(50, 48)).astype(np.float32)
    shared = [
        len({place for place, _ in one} & {place for place, _ in two})
        for one, two in zip(exact.search(queries, 10), again.search(queries, 10), strict=True)
    ]
    assert np.mean(shared) / 10 > 0.9
    assert len(list((tmp_path / "indexes").glob("*/graph.usearch"))) == 1
