"""Whether a model can be read here at all: a few tokens tell, before any work."""

from typing import cast

import torch
from transformers import PreTrainedModel

from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.nll import batch_nll
from gateau_lib.study.errors import ModelError, UserError, reason

TOKENS = 23  # no multiple of anything; the later half is exchanged
SAME = {torch.float32: 1e-4, torch.float64: 1e-4}  # nats between two losses that should be one
SAME_IN_HALF_PRECISION = 0.05


@torch.inference_mode()
def check_readable(model: PreTrainedModel) -> None:
    """Raise ModelError for a model that looks ahead, or that cannot read token ids and nothing else.

    Encoders load as causal language models where their configuration does not forbid it (RoFormer, BigBird).
    """
    rows = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    name, half = model.config.name_or_path or model.config.model_type, TOKENS // 2
    ids = [i % rows for i in range(1, TOKENS + 1)]
    exchanged = ids[:half] + [(i + rows // 2) % rows for i in ids[half:]]
    try:
        one, two = (batch_nll(model, [each], [TOKENS - 1])[0][: half - 1] for each in (ids, exchanged))
    except UserError:
        raise
    except Exception as error:  # whatever a family's code stumbles over
        if is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {reason(error)}"
        raise ModelError(f"{name}: cannot read a plain text ({why}); use another model") from error
    if (one - two).abs().max() > SAME.get(model.dtype, SAME_IN_HALF_PRECISION):
        why = "what it predicts depends on later tokens, as in an encoder"
        raise ModelError(f"{name}: {why}; use a causal language model")
