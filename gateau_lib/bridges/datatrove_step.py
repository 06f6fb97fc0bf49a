"""A step of a datatrove pipeline: scores in the metadata of each document.

    reader = JsonlReader("data/", adapter=whole_record)
    scores = GateauScores(["hmg"], short="short-model", long="long-model")
    LocalPipelineExecutor([reader, scores, JsonlWriter("scored/")]).run()

A document's record is its metadata, where datatrove keeps the fields of a line, with its ``id`` and ``text``.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep  # an optional package

from gateau_lib.bridges.record_scores import RecordScores


def whole_record(reader: Any, line: dict[str, Any], path: str, number: int | str) -> dict[str, Any]:
    """A reader's ``adapter`` for conversations: the record is the metadata, its turns are the text.

    datatrove passes over a document without text, which a line without the field ``text`` would be.
    """
    turns = line.get("messages") or line.get("conversations") or []
    texts = [str(turn.get("content", turn.get("value"))) for turn in turns if isinstance(turn, dict)]
    text = line.get("text") or "\n\n".join(texts) or str(line)
    return {"text": text, "id": str(line.get("id", f"{path}/{number}")), "metadata": line}


class GateauScores(PipelineStep):
    """Leaves ``metadata["gateau"]``: a score a method, token counts, and ``error``, the reason or None.

    ``methods``, ``options``: of `record_scores.RecordScores`. ``batch_size``: documents scored at a time.
    """

    type = "SCORE"
    name = "GATEAU"

    def __init__(self, methods: Sequence[str] = ("hmg", "cam"), batch_size: int = 16, **options: Any) -> None:
        super().__init__()
        self.batch_size, self.scores = batch_size, RecordScores(methods, **options)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document, scored, in its order."""
        documents = iter(data)
        while batch := list(islice(documents, self.batch_size)):
            with self.track_time("batch"):
                rows = self.scores.rows([{"text": d.text, **d.metadata, "id": d.id} for d in batch])
            for document, row in zip(batch, rows, strict=True):
                document.metadata["gateau"] = row
                self.stat_update("scored" if row["error"] is None else "with an error")
                yield document
