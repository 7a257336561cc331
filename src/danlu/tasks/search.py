"""Search: one encoder for queries and documents, so that the document that answers a query lies nearest to it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.batch import Batch
from danlu.core.config import read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Call, Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples, ExampleSet
from danlu.data.queries import PairEncoder, TextFramer, pair_columns, text_columns, texts_of_example
from danlu.data.sources import Source, open_source
from danlu.data.split import split_source
from danlu.data.tokenizers import special_tokens
from danlu.maths.losses import weighted_sum
from danlu.maths.retrieval import CUTS, Pooling, contrastive_losses, pooled, without_muted
from danlu.models.forward import Forward
from danlu.models.writing import context_of
from danlu.tasks._own_metrics import own_metrics
from danlu.tasks._prepared_text import tokenizer_for
from danlu.tasks._retrieval_evaluator import RetrievalEvaluator
from danlu.tasks._search_index import Embedder, SearchOptions, answers, padded
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools

METRICS = (*(f"recall@{k}" for k in CUTS), "ndcg@10", "mrr@10", "loss")


class Search(Task):
    """Finds the documents that answer a query, by the cosine of their embeddings.

    The loss of a row is -log softmax over the documents of the whole step's batch, at its own (multiple negatives
    ranking): `train.batch` says how many negatives there are, however the step is cut into micro-batches and
    processes. With `dims` it is the mean of the same over prefixes of the embedding (Matryoshka, Kusupati et al. 2022).
    """

    auto_class: ClassVar[str] = "AutoModel"
    taught: ClassVar[tuple[str, ...]] = ("columns", "context", "long")

    pooling: Pooling = "mean"
    """which of a text's token states are its embedding: the mean, the first (cls), or the last"""
    query_prefix: str = ""
    """text put before every query, such as "query: " """
    document_prefix: str = ""
    """text put before every document, such as "passage: " """
    scale: float = Field(default=20.0, gt=0)
    """what cosines are multiplied with in the softmax: one over the temperature"""
    symmetric: bool = False
    """also find the query of each document, and take the mean of both losses"""
    negatives: int = Field(default=1, ge=0)
    """hard negatives of each row that are used at most, where the data have a column of them"""
    dims: tuple[int, ...] = ()
    """prefixes of the embedding that must work by themselves, such as [384, 128, 64]; none means the whole alone"""
    corpus: str | None = None
    """the documents that `danlu predict` ranks unless it is given others; when absent those of data.train"""
    judge: str = "ndcg@10"
    """the metric that says which evaluation is best"""
    metrics: tuple[str, ...] = ()
    """metrics of your own, each module:function, called with (for each query the ranks of what is right, from 1; how
    many documents there are)"""

    _pad_id: int = PrivateAttr(default=0)

    @field_validator("dims")
    @classmethod
    def _falling(cls, dims: tuple[int, ...]) -> tuple[int, ...]:
        if any(dim < 1 for dim in dims) or len(set(dims)) != len(dims):
            raise ValueError("give numbers of dimensions from 1 on, each once")
        return tuple(sorted(dims, reverse=True))

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Higher, but for the loss."""
        return "lower" if self.judge == "loss" else "higher"

    @property
    def contrasted(self) -> tuple[str, ...]:
        """Every row's query is compared with every row's documents."""
        return ("queries", "documents")

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of query, document, and perhaps negatives and slice."""
        if data.format not in ("auto", "text"):
            problem = f"{self.kind()} reads queries and documents, not {data.format}"
            raise RequestError(problem, where="data.format", mend="Leave it out")
        return text_columns(pair_columns(fields, told=data.columns, where=where))

    def for_model(self, model: nn.Module) -> Self:
        """With the model's padding. A head that the embedding does not use is frozen: it gets no gradient,
        for which processes that train together would wait."""
        config: Any = cast(PreTrainedModel, model).config
        if config.is_encoder_decoder:
            problem = f"{config.model_type} has an encoder and a decoder, which give no embedding of a text"
            raise RequestError(problem, where="model", mend="Choose an encoder such as MiniLM or BERT")
        if self.dims and self.dims[0] > config.hidden_size:
            problem = f"{self.dims[0]} is more than the model's {config.hidden_size} dimensions"
            raise RequestError(problem, where="task.dims", mend="Lower it")
        inner: Any = cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model
        if isinstance(pooler := getattr(inner, "pooler", None), nn.Module):
            pooler.requires_grad_(False)
        known = self.model_copy()
        known._pad_id = getattr(config, "pad_token_id", None) or 0
        return known

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Splits data.train (whole files where it has several), gets the tokenizer, and encodes both parts once."""
        if self.judge not in (known := self._metric_names()):
            problem = f"there is no metric {self.judge!r}"
            raise RequestError(problem, where="task.judge", mend=nearest(self.judge, known))
        say(f"reading {', '.join(data.train_sources)}")
        train, valid = split_source(open_source(data.train_sources, cache=data.cache), data.valid, seed)
        columns = self.columns(train.peek()[0].fields, data, train.spec)
        tokenizer = tokenizer_for(data, train, columns, base=base)
        say(f"tokenising {train.num_bytes / 1e6:.1f} MB")
        skipped: list[Mapping[str, object]] = []
        parts = [self._encoded(part, data, tokenizer, skipped) for part in (train, valid)]
        return Prepared(
            train=parts[0],
            valid=parts[1],
            tools=tokenizer,
            context=data.context,
            padded=True,
            vocab_size=len(tokenizer),
            special_tokens=special_tokens(tokenizer),
            model_options={"pad_token_id": tokenizer.pad_token_id},
            facts=_facts(parts[0], parts[1], len(tokenizer)),
            skipped=skipped,
            found={"format": "text"},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data were."""
        return self._encoded(open_source(source, cache=data.cache), data, tools, [])

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """Queries are padded to the longest of them (B, Tq), documents and negatives to theirs (B, N, Td)."""
        texts = [texts_of_example(example) for example in examples]
        query_ids_BT, query_mask_BT = padded([row[0] for row in texts], self._pad_id)
        document_ids, document_mask = padded([text for row in texts for text in row[1:]], self._pad_id)
        keys_BK = torch.from_numpy(np.stack([example["keys"] for example in examples]))
        shape = (len(texts), -1, document_ids.shape[1])
        return Batch(
            inputs={
                "query_ids": query_ids_BT,
                "query_mask": query_mask_BT,
                "document_ids": document_ids.view(shape),
                "document_mask": document_mask.view(shape),
            },
            labels={
                "query_keys": keys_BK[:, 0],
                "document_keys": keys_BK[:, 1:],
                "shown": tuple(torch.from_numpy(np.array(example["shown"])) for example in examples),
            },
            example_ids_B=ids_B,
            targets_B=torch.ones(len(examples), dtype=torch.int64),
            tokens_B=torch.tensor([len(example["input_ids"]) for example in examples]),
        )

    def forward(self, call: Call, batch: Batch) -> Outputs:
        """`queries` (B, D) and `documents` (B, N, D) in fp32, by two calls of the one encoder; zeros for no text."""
        given = {name: cast(Tensor, field) for name, field in batch.inputs.items()}
        queries_BD = self._embedded(call, given["query_ids"], given["query_mask"])
        present_BN = given["document_mask"].any(-1)
        found_MD = self._embedded(call, given["document_ids"][present_BN], given["document_mask"][present_BN])
        documents_BND = found_MD.new_zeros(*present_BN.shape, found_MD.shape[-1])
        documents_BND[present_BN] = found_MD
        return Outputs(extra={"queries": queries_BD, "documents": documents_BND})

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed over the rows; rows of no weight are no negatives either."""
        queries_BD, documents_BND = (cast(Tensor, outputs.extra[name]) for name in self.contrasted)
        keys = [
            without_muted(cast(Tensor, batch.labels[name]), batch.weights_B) for name in ("query_keys", "document_keys")
        ]
        losses = [
            contrastive_losses(
                queries_BD[:, :dim], documents_BND[..., :dim], *keys, scale=self.scale, both=self.symmetric
            )
            for dim in self.dims or (None,)
        ]
        losses_B = torch.stack(losses).mean(0)
        outputs.losses_B = losses_B.detach()
        return weighted_sum(losses_B, batch.weights_B)

    def evaluator(self) -> Evaluator:
        """Ranks all documents for every query."""
        return RetrievalEvaluator(dims=self.dims, scale=self.scale, own=own_metrics(self.metrics))

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each query the documents nearest to it: file, row and id of each, its text, and its cosine as `score`."""
        asked = read_options(SearchOptions, {"corpus": self.corpus, **options})
        context = min(context_of(model) or asked.context, asked.context)
        call = Forward(model)
        embedder = Embedder(
            model=model,
            embed=lambda ids_BT, mask_BT: self._embedded(call, ids_BT, mask_BT),
            framer=TextFramer(tools, context=context, long=asked.long),
            pad_id=self._pad_id,
            dim=asked.dim,
        )
        yield from answers(embedder, (self.query_prefix, self.document_prefix), rows, asked)

    def notes(self, data: DataConfig) -> dict[str, object]:
        """Also where the documents are that predict ranks."""
        corpus = self.corpus or (data.train_sources[0] if len(data.train_sources) == 1 else None)
        return super(Search, self.model_copy(update={"corpus": corpus})).notes(data)

    def files(self, model: nn.Module, data: DataConfig) -> Mapping[str, str]:
        """What sentence-transformers reads: the modules, how to pool, the prefixes and the context."""
        width = cast(PreTrainedModel, model).config.hidden_size
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        described: dict[str, object] = {
            "modules.json": [
                {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
                for at, (path, name) in enumerate(modules)
            ],
            "1_Pooling/config.json": {
                "word_embedding_dimension": width,
                "pooling_mode_cls_token": self.pooling == "cls",
                "pooling_mode_mean_tokens": self.pooling == "mean",
                "pooling_mode_lasttoken": self.pooling == "last",
            },
            "sentence_bert_config.json": {"max_seq_length": data.context, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "prompts": {"query": self.query_prefix, "document": self.document_prefix},
                "similarity_fn_name": "cosine",
            },
        }
        return {path: json.dumps(content, indent=2) + "\n" for path, content in described.items()}

    def _encoded(
        self, source: Source, data: DataConfig, tokenizer: Any, skipped: list[Mapping[str, object]]
    ) -> Examples:
        encoder = PairEncoder(
            tokenizer,
            pair_columns(source.peek()[0].fields, told=data.columns, where=source.spec),
            prefixes=(self.query_prefix, self.document_prefix),
            negatives=self.negatives,
            context=data.context,
            long=data.long,
        )
        return encode_as_told(source, encoder, data, skipped)

    def _embedded(self, call: Call, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, D)"""
        outputs = call({"input_ids": ids_BT, "attention_mask": mask_BT})
        return pooled(cast(Tensor, outputs.extra["last_hidden_state"]), mask_BT, self.pooling)

    def _metric_names(self) -> tuple[str, ...]:
        return (*METRICS, *(f"ndcg@10_dim_{dim}" for dim in self.dims), *own_metrics(self.metrics))


def _facts(train: Examples, valid: Examples, vocab_size: int) -> dict[str, float]:
    return {
        "train_examples": len(train),
        "train_tokens": train.num_tokens,
        "train_truncated": train.truncated.count,
        "valid_examples": len(valid),
        "valid_tokens": valid.num_tokens,
        "vocab_size": vocab_size,
    }
