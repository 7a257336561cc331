"""The index of a corpus: its documents' embeddings, made once, and the ones nearest to a query."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from danlu.core.config import Config
from danlu.core.errors import RequestError
from danlu.core.extras import need
from danlu.data.cache import encode_cached
from danlu.data.columns import Columns
from danlu.data.examples import Examples
from danlu.data.fingerprints import digest_of
from danlu.data.places import cache_folder, one_builder, telling_disk_troubles, written_aside
from danlu.data.queries import TextFramer, key_of, lone_columns
from danlu.data.rows import BadField, Example, Row
from danlu.data.sources import open_source
from danlu.data.text import Encoded, judged, text_in

BATCH_ROWS = 32
BATCH_TOKENS = 4096
LARGEST_EXACT = 50_000
"""documents up to which every one is compared: faster than it takes to build a graph"""
GOOD_RECALL = 0.95
_TRIED = 256
_DEEPEST = 4096
_VERSION = 1


class SearchOptions(Config):
    """What to search, and what the trained model's data looked like."""

    corpus: str | None = None
    """file, folder, glob, hub name or builtin:NAME with the documents"""
    top: int = Field(default=10, ge=1)
    """documents to give for each query"""
    dim: int | None = Field(default=None, ge=1)
    """dimensions of the embedding that are used, for a model trained with task.dims; all when absent"""
    columns: dict[str, str] = {}
    """role -> column"""
    context: int = Field(default=512, ge=2)
    """tokens of a text at most"""
    long: Literal["auto", "truncate", "refuse"] = "auto"
    """a longer text: cut it, or refuse the row"""
    cache: str | None = None
    """folder for the index; when absent ~/.cache/danlu"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedder:
    """Texts to embeddings of length one. `embed` takes ids and mask, (B, T), and gives (B, D)."""

    model: nn.Module
    embed: Callable[[Tensor, Tensor], Tensor]
    framer: TextFramer
    pad_id: int
    dim: int | None

    def key(self) -> str:
        """Names all that an embedding depends on, its text apart."""
        content = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().float().cpu().contiguous().numpy().data)
        return digest_of(content.hexdigest(), self.framer.key, self.dim)

    @torch.no_grad()
    def __call__(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) in fp32, of the tokens of N texts; similar lengths are computed together."""
        device = next(self.model.parameters()).device
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        found: list[np.ndarray] = [np.zeros(0)] * len(texts)
        start = 0
        while start < len(order):
            some = order[start : start + max(1, BATCH_TOKENS // len(texts[order[start]]))]
            start += len(some)
            ids, mask = (tensor.to(device) for tensor in padded([texts[at] for at in some], self.pad_id))
            vectors_BD = functional.normalize(self.embed(ids, mask)[:, : self.dim].float(), dim=-1).cpu().numpy()
            for at, vector_D in zip(some, vectors_BD, strict=True):
                found[at] = vector_D
        return np.stack(found)


def padded(rows: Sequence[np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (B, T) as long as the longest."""
    longest = max(1, *map(len, rows))
    ids_BT = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.int64)
    for at, row in enumerate(rows):
        ids_BT[at, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask_BT[at, : len(row)] = 1
    return ids_BT, mask_BT


def answers(
    embedder: Embedder, prefixes: tuple[str, str], rows: Iterable[Mapping[str, object]], asked: SearchOptions
) -> Iterator[dict[str, object]]:
    """For each row its `prediction`: the documents nearest to its query, the best first.

    Raises:
        RequestError: no corpus is named. DataError: it cannot be used. BadField: the row drawn last cannot be used.
    """
    index = Index(_embedded_corpus(embedder, prefixes[1], asked), asked.cache)
    drawn, columns = iter(rows), None
    while True:
        queries = []
        for fields in islice(drawn, BATCH_ROWS):
            columns = columns or lone_columns("query", fields, told=asked.columns, where="the input")
            ((ids, cut),) = embedder.framer.frame([prefixes[0] + text_in(fields, columns["query"])])
            embedder.framer.check(columns["query"], cut)
            queries.append(ids)
        if not queries:
            return
        for found in index.search(embedder(queries), asked.top):
            yield {"prediction": [{**index.told(place), "score": round(score, 4)} for place, score in found]}


class Index:
    """The embeddings of distinct documents, and the nearest of them: exactly, or by a graph (HNSW, Malkov and Yashunin
    2016) where there are many, which is searched deep enough to find 95 % of what is really nearest."""

    def __init__(self, documents: Examples, cache: str | None) -> None:
        self._documents = documents
        self.vectors_MD = documents.column("embedding").reshape(len(documents), -1)
        _, first = np.unique(documents.column("key"), return_index=True)
        self._places = np.sort(first)
        if len(first) < len(documents):
            self.vectors_MD = self.vectors_MD[self._places]
        self.recall = 1.0
        self._graph: Any = self._load(cache) if len(first) > LARGEST_EXACT else None

    def search(self, queries_QD: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """For each query (place, score) of the best, with exact scores; of equal ones the first document first."""
        if self._graph is None:
            scores_QM = queries_QD @ self.vectors_MD.T
            top = min(top, scores_QM.shape[1])
            best_QK = np.argpartition(-scores_QM, top - 1, axis=1)[:, :top]
        else:
            best_QK = self._graph.search(queries_QD, top).keys.reshape(len(queries_QD), -1).astype(np.int64)
        found = []
        for query_D, best_K in zip(queries_QD, best_QK, strict=True):
            scores_K = self.vectors_MD[best_K] @ query_D
            order_K = np.lexsort((best_K, -scores_K))
            found.append([(int(best_K[at]), float(scores_K[at])) for at in order_K])
        return found

    def told(self, place: int) -> dict[str, object]:
        """Where the document at a place stands, and its text."""
        told: dict[str, object] = json.loads(bytes(self._documents.part("told", int(self._places[place]))))
        return told

    def _load(self, cache: str | None) -> Any:
        usearch = need("usearch.index", extra="search", what=f"a corpus of more than {LARGEST_EXACT} documents")
        folder = cache_folder(cache) / "indexes" / digest_of(_VERSION, self._documents.fingerprint)
        with telling_disk_troubles(folder), one_builder(folder):
            if not (folder / "meta.json").is_file():
                with written_aside(folder) as aside:
                    self._build(usearch.Index, aside)
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        graph = usearch.Index.restore(str(folder / "graph.usearch"))
        if meta["recall"] < GOOD_RECALL:  # vectors without any structure: nothing but comparing all of them will do
            return None
        graph.expansion_search, self.recall = meta["expansion"], meta["recall"]
        return graph

    def _build(self, make: Any, folder: Path) -> None:
        """The graph, and how deep it must be searched: measured with documents as queries, themselves left out."""
        graph = make(ndim=self.vectors_MD.shape[1], metric="ip", dtype="f32")
        graph.add(np.arange(len(self.vectors_MD)), np.ascontiguousarray(self.vectors_MD))
        asked = np.linspace(0, len(self.vectors_MD) - 1, _TRIED, dtype=np.int64)
        queries_QD = np.ascontiguousarray(self.vectors_MD[asked])
        scores_QM = queries_QD @ self.vectors_MD.T
        nearest_QK = np.argpartition(-scores_QM, 10, axis=1)[:, :11]
        graph.expansion_search = 64
        while True:
            found_QK = graph.search(queries_QD, 11).keys
            pairs = zip(asked.tolist(), nearest_QK.tolist(), found_QK.tolist(), strict=True)
            recall = float(np.mean([len((set(true) & set(got)) - {at}) / 10 for at, true, got in pairs]))
            if recall >= GOOD_RECALL or graph.expansion_search >= _DEEPEST:
                break
            graph.expansion_search *= 2
        graph.save(str(folder / "graph.usearch"))
        said = {"expansion": graph.expansion_search, "recall": min(recall, 1.0)}
        (folder / "meta.json").write_text(json.dumps(said), encoding="utf-8")


def _embedded_corpus(embedder: Embedder, prefix: str, asked: SearchOptions) -> Examples:
    """The documents with their embeddings, from the cache if they are there."""
    if asked.corpus is None:
        mend = "Say where the documents are: corpus=FILE"
        raise RequestError("there is nothing to search in", where="corpus", mend=mend)
    source = open_source(asked.corpus, cache=asked.cache, whole_documents=True)
    columns = lone_columns("document", source.peek()[0].fields, told=asked.columns, where=source.spec)
    encoder = _CorpusEncoder(embedder, columns, prefix=prefix, many_files=len(source.files) > 1)
    return encode_cached(source, encoder, key=encoder.key, folder=asked.cache, workers=1)


class _CorpusEncoder:
    """Rows of a corpus to examples: `embedding` (D,), `told` (UTF-8 of JSON: file, row, id, text) and `key`."""

    def __init__(self, embedder: Embedder, columns: Columns, *, prefix: str, many_files: bool) -> None:
        self._embedder, self._columns, self._prefix, self._many_files = embedder, columns, prefix, many_files

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        roles = sorted(self._columns.by_role.items())
        return digest_of("corpus", _VERSION, self._embedder.key(), roles, self._prefix, self._many_files)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        column = self._columns["document"]
        texts = [judged(lambda fields: text_in(fields, column), row) for row in rows]
        good = [at for at, text in enumerate(texts) if not isinstance(text, BadField)]
        framed = self._embedder.framer.frame([self._prefix + texts[at] for at in good])
        found: list[Encoded] = [text if isinstance(text, BadField) else [] for text in texts]
        if not good:
            return found
        vectors_ND = self._embedder([ids for ids, _ in framed])
        for at, (_, cut), vector_D in zip(good, framed, vectors_ND, strict=True):
            found[at] = judged(lambda _f: self._example(rows[at], texts[at], cut, vector_D), rows[at])  # noqa: B023
        return found

    def _example(self, row: Row, text: str, cut: bool, vector_D: np.ndarray) -> list[Example]:
        self._embedder.framer.check(self._columns["document"], cut)
        place = {"file": row.file} if self._many_files else {}
        name = {"id": row.fields[self._columns["id"]]} if "id" in self._columns.by_role else {}
        told = json.dumps({**place, "row": row.number, **name, "text": text}, ensure_ascii=False, default=str)
        return [
            {
                "embedding": vector_D.astype(np.float32),
                "told": np.frombuffer(told.encode(), dtype=np.uint8),
                "key": np.asarray(key_of(text), dtype=np.int64),
            }
        ]
