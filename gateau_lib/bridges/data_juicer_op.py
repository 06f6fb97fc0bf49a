"""An operator for Data-Juicer, ``gateau_score_mapper``: scores in a field ``gateau`` of each sample.

In a recipe::

    custom_operator_paths: [".../gateau_lib/bridges/data_juicer_op.py"]
    text_keys: response       # any field of the records that holds text
    process:
      - gateau_score_mapper: {methods: [hmg], short: SHORT, long: LONG}
      - topk_specified_field_selector: {field_key: gateau.hmg, top_ratio: 0.1}
"""

from typing import Any

from data_juicer.ops.base_op import OPERATORS, Mapper  # an optional package

from gateau_lib.bridges.record_scores import RecordScores


@OPERATORS.register_module("gateau_score_mapper")
class GateauScoreMapper(Mapper):
    """Leaves ``gateau``: a score a method, token counts, and ``error``, the reason or an empty text.

    A score that there is none of is -inf, so that a selector of the highest ones passes it over.
    """

    _batched_op = True

    def __init__(
        self,
        methods: list[str] | None = None,
        short: str | None = None,
        long: str | None = None,
        max_length: int | None = None,
        segment_length: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """
        Initialization method.

        :param methods: names of scores, as gateau_lib.score takes them; by default hmg and cam
        :param short: short model, a folder or a hub id; without both models the shipped tiny pair
        :param long: long-window model of the same family
        :param max_length: tokens a sample, cut on the left
        :param segment_length: tokens a segment
        :param dtype: float32, bfloat16 or float16
        :param device: cpu, cuda, cuda:1 ...; a GPU if there is one
        """
        # A process holds both models, so more than one is for the user to ask; a batch is one of scoring.
        super().__init__(*args, **{"num_proc": 1, "batch_size": 16} | kwargs)
        asked = {"short": short, "long": long, "max_length": max_length, "segment_length": segment_length}
        self.scores = RecordScores(methods or ("hmg", "cam"), dtype=dtype, device=device, **asked)

    def process_batched(self, samples: dict[str, list[Any]], *_: Any, **__: Any) -> dict[str, list[Any]]:
        """Columns in, columns out."""
        names = list(samples)
        records = [dict(zip(names, values, strict=True)) for values in zip(*samples.values(), strict=True)]
        samples["gateau"] = [
            {"error": row.pop("error") or ""} | {name: _number(value) for name, value in row.items()}
            for row in self.scores.rows(records)
        ]
        return samples


def _number(value: float | None) -> float:
    # Always a float: the first batch decides the type of a field, and no later one may have another.
    return float("-inf") if value is None else float(value)
