"""Every causal family of the installed transformers, built tiny with random weights, and how it is read.

Each pass is compared with transformers' own eager attention, one sample at a time, unpadded. Run as a
program it writes docs/families.md, and fails if a pass is wrong or ends in an error that names no reason:

    python tests/every_family.py [FAMILY ...]        some families only, to the screen
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from families import TWO_ROPES
from reference.cam import slow_attention, slow_importance
from reference.longattn import slow_long_attention
from reference.nll import slow_nll
from tiny import VOCABULARY, random_encoded
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gateau_lib.methods import model_passes, pair_passes, released
from gateau_lib.methods.longattn import long_attention
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import rope
from gateau_lib.models.pair import Pair
from gateau_lib.models.readable import check_readable
from gateau_lib.study.errors import UserError, reason

HEAD = """# Families of models

Every causal family of transformers {version}, built tiny with random weights and read by each pass of the
library, beside transformers' own eager attention, which reads one sample at a time without padding. A number
is the largest relative difference of a pass that is right. Any other pass is refused in one line, for the
reason noted, before anything is scored. `make families` makes this page, and fails if a pass is wrong.

Of {all} families are right: {right}; {unbuilt} could not be built so small.
"""
PAGE = Path(__file__).parents[1] / "docs" / "families.md"
SEGMENT, WINDOW = 16, 256
SAMPLES = [random_encoded(f"s{n}", n, 6, 9, seed=n) for n in (112, 70)]  # read together: one is padded
MOST = 30_000_000  # weights of a model
TOLERANCE = 2e-4  # relative; states that are computed in chunks are no closer to those of one sample alone

# Sizes by the names that configurations have for them.
TINY = {
    name: int(line.split()[0])
    for line in f"""
        4 num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers
        4 num_encoder_layers
        64 hidden_size d_model n_embd emb_dim word_embed_proj_dim embedding_size lru_width
        64 input_embedding_size output_embedding_size rel_extent
        96 intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner dim_ff dff d_inner
        96 ffn_hidden_size intermediate_size_mlp dense_intermediate_size shared_intermediate_size
        96 feed_forward_size
        4 num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads
        4 num_decoder_attention_heads num_encoder_attention_heads attention_heads linear_num_heads
        4 linear_num_value_heads swa_num_attention_heads hc_mult
        2 num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads index_n_heads
        4 num_experts num_local_experts n_routed_experts moe_num_experts
        2 num_experts_per_tok moe_topk moe_k top_k_experts o_groups zero_expert_num ngram
        32 moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size
        32 moe_shared_expert_intermediate_size shared_experts_intermediate_size image_size
        {WINDOW} max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions
        16 q_lora_rank kv_lora_rank o_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim head_dim
        16 kv_channels dim_head swa_head_dim index_head_dim linear_key_head_dim linear_value_head_dim d_head
        16 linear_head_dim attention_head_size rotary_dim router_hidden_size adapter_rank laurel_rank
        16 patch_size state_size mamba_d_state ssm_state_size chunk_size mamba_chunk_size block_size
        16 mamba_d_head mamba_head_dim hidden_size_per_layer_input
        1 n_group topk_group n_shared_experts num_shared_experts moe_num_shared_experts num_dense_layers
        1 first_k_dense_replace moe_layer_start_index n_groups attn_layer_offset bos_token_id
        24 sliding_window window_size attention_window_size sliding_window_size
        32 attention_chunk_size local_attention local_attention_window_len index_topk keep_window_size
        8 mamba_n_heads mamba_num_heads
        128 mamba_d_ssm
        {VOCABULARY} vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size
        0 pad_token_id num_mtp_layers num_nextn_predict_layers
        2 eos_token_id layer_group_size attn_layer_period index_block_size
    """.strip().splitlines()
    for name in line.split()[1:]
}
# What the sizes above do not fit; after a comma, other settings of a family.
HALF = {"layer_types": ["sliding_attention", "full_attention"] * 2}
DOTS = {"head_dim": 32, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4}
DOTS |= {"swa_q_lora_rank": 16, "swa_kv_lora_rank": 16, "swa_head_dim": 32, "swa_v_head_dim": 16}
DOTS |= {"swa_qk_nope_head_dim": 16}
INDEXED = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 32}
INDEXED |= {"indexer_compress_ratio": 4}
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": TWO_ROPES} | HALF,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4},
    },
    "dots3_note": {"text_config": DOTS},
    "dots3_note_text": DOTS,
    "gemma3": {"text_config": HALF},
    "gemma3_text": HALF,
    "gemma3n": {"text_config": HALF | {"num_kv_shared_layers": 2}},
    "gemma3n_text": {"num_kv_shared_layers": 2} | HALF,
    "gemma4_text": {"global_head_dim": 32} | HALF,
    "gemma4_text, shared keys": {"global_head_dim": 32, "num_kv_shared_layers": 2} | HALF,
    "gemma4_unified_text": {"global_head_dim": 32} | HALF,
    "doge": {"sliding_window": None},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gpt_oss, default RoPE": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hrm_text": {"num_hidden_layers": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "kolibri1": HALF,
    "lfm2": {"full_attn_idxs": [1, 3]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"num_layers": 2},
    "mamba2": {"num_heads": 8},
    "ministral": HALF,
    "mistral, sliding": {},
    "mistral": {"sliding_window": None},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "phi3, sliding": {},
    "phi3": {"sliding_window": None},
    "qwen4_exp": {"text_config": INDEXED},
    "qwen4_exp_text": INDEXED,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "attn_layers": ["local", "lsh", "local", "lsh"], "axial_pos_shape": [16, 16], "is_decoder": True,
        "axial_pos_embds_dim": [32, 32], "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16,
    },
    "roformer, decoder": {"is_decoder": True},
    "bert, decoder": {"is_decoder": True},
    "big_bird, decoder": {"is_decoder": True},
    "xlstm": {"hidden_size": 128},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    "whisper": {"max_source_positions": 64},
}  # fmt: skip
FAMILIES = [
    family
    for family in dict.fromkeys([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *OWN])
    if family.partition(",")[0] in CONFIG_MAPPING  # older versions know fewer
]


def tiny_config(kind: type[PreTrainedConfig], more: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of four layers; those inside it (of pictures, sounds) are as small."""
    known = {name for each in kind.__mro__ for name in getattr(each, "__annotations__", {})}
    values = {name: value for name, value in TINY.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has a key for each head
        values["num_key_value_heads"] = values["num_attention_heads"]
    usual = kind() if kind.sub_configs else None
    inside = {name: getattr(usual, name, None) for name in kind.sub_configs or {}}
    for name, inner in inside.items():
        if isinstance(inner, PreTrainedConfig):
            values[name] = tiny_config(type(inner), more.get(name, {})).to_dict()
    return kind(**values | {name: value for name, value in more.items() if name not in inside})


def build(family: str) -> PreTrainedModel:
    """A model with weights so large that attention is far from uniform."""
    torch.manual_seed(7)
    config = tiny_config(CONFIG_MAPPING[family.partition(",")[0]], OWN.get(family, {}))
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > MOST:
        raise ValueError(f"{weights:,} weights, though its configuration is tiny")
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.normal_(std=0.25)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 3 and "expert" in name:
                parameter.normal_(std=0.25)
            elif name.endswith((".sinks", ".A")):  # some begin as zeros
                parameter.normal_()
    return model


@dataclass(frozen=True)
class Verdict:
    """How a pass of a family went: ``right``, ``refused``, ``wrong``, ``crash`` or ``no reference``."""

    word: str
    said: str = ""  # largest difference, reason, or error

    def __str__(self) -> str:
        return f"{self.word}: {self.said}" if self.said else self.word


class NoReference(Exception):
    """Transformers itself gives nothing to compare with."""


def reference(read: Callable[[], Any]) -> Any:
    """What eager attention gives."""
    try:
        return read()
    except Exception as error:
        raise NoReference(f"{type(error).__name__}: {reason(error)}") from error


def losses(model: PreTrainedModel) -> tuple[Any, Any]:
    got = response_nll(model, SAMPLES)
    return got, reference(lambda: [slow_nll(model, s.prompt, s.response).mean() for s in SAMPLES])


def cam(model: PreTrainedModel) -> tuple[Any, Any]:
    read = model_passes.long_pass(model, SAMPLES, SEGMENT)
    got = [each.attention.ravel() * SEGMENT for each in read]  # a segment's share, but for a short last one
    got += model_passes.segment_importance(model, SAMPLES[1:], SEGMENT)
    want = [SEGMENT * reference(lambda s=s: slow_attention(model, s, SEGMENT)).ravel() for s in SAMPLES]
    want += [reference(lambda: slow_importance(model, SAMPLES[1], SEGMENT))]
    return np.concatenate(got), np.concatenate(want)


def prolong(model: PreTrainedModel) -> tuple[Any, Any]:
    ids, pairs = SAMPLES[0].ids, np.array([[1, 0], [4, 0], [4, 2], [6, 5]])
    alone, given = pair_passes.pair_nll(model, ids, SEGMENT, pairs, window_segments=16)
    ids = ids[len(ids) % SEGMENT :]  # segments are counted from the end
    parts = [ids[begin : begin + SEGMENT] for begin in range(0, len(ids), SEGMENT)]
    asked = [(parts[i][:1], parts[i][1:]) for i in alone]
    asked += [([*parts[j], parts[i][0]], parts[i][1:]) for i, j in pairs]
    return [*alone.values(), *given], reference(lambda: [slow_nll(model, *each).mean() for each in asked])


def longattn(model: PreTrainedModel) -> tuple[Any, Any]:
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None)
    got = np.array(long_attention(model, SAMPLES)).T
    kinds = [kind for kind in kinds or () if kind not in ("linear_attention", "conv", "moe", "mlp")]
    first = kinds.index("full_attention") if "full_attention" in kinds else 0
    return got, reference(lambda: [slow_long_attention(model, s, first) for s in SAMPLES])


def ntk(model: PreTrainedModel) -> tuple[Any, Any]:
    got = response_nll(rope.extend_window(model, 4 * WINDOW), SAMPLES)
    if rope.window(model) is None:
        return losses(model)  # there is none to leave
    config = copy.deepcopy(model.config)
    text = config.get_text_config(decoder=True)
    turned = text.rope_parameters.get("full_attention", text.rope_parameters)
    turned["rope_theta"] = rope.stretched_theta(model.config, 4 * WINDOW)
    built = type(model)(config).eval()
    built.load_state_dict(model.state_dict())
    want = reference(lambda: [slow_nll(built, s.prompt, s.response).mean() for s in SAMPLES])
    if np.allclose(want, response_nll(model, SAMPLES), rtol=1e-5):
        raise AssertionError("another RoPE base changes nothing")
    return got, want


def as_released(model: PreTrainedModel) -> tuple[Any, Any]:
    pair = Pair(model, model, SimpleNamespace(pad_token_id=0, eos_token_id=2))
    released.released_cam(pair, SAMPLES[1:], 128, SEGMENT)
    plain = released.released_cam(pair, SAMPLES[1:], 128, SEGMENT, defects=released.Defects.none())
    ((nll, attention),) = plain
    want = [reference(lambda: slow_importance(model, SAMPLES[1], SEGMENT))]
    want += [reference(lambda: slow_attention(model, SAMPLES[1], SEGMENT)).ravel()]
    return np.concatenate([nll, attention.ravel()]), np.concatenate(want)


PASSES = {"losses": losses, "CAM": cam, "ProLong": prolong, "LongAttn": longattn, "NTK": ntk}
PASSES["as released"] = as_released


def verdict(read: Callable[[PreTrainedModel], tuple[Any, Any]], model: PreTrainedModel) -> Verdict:
    """How one pass goes."""
    try:
        got, want = (np.asarray(each, dtype=float) for each in read(model))
    except UserError as error:
        return Verdict("refused", str(error).partition(": ")[2] or str(error))
    except NoReference as error:
        return Verdict("no reference", str(error))
    except Exception as error:
        return Verdict("crash", f"{type(error).__name__}: {reason(error)[:150]}")
    if got.shape != want.shape:
        return Verdict("wrong", f"{got.shape}, not {want.shape}")
    apart = float(np.max(np.abs(got - want) / np.maximum(1.0, np.abs(want)), initial=0.0))
    return Verdict("right" if apart <= TOLERANCE else "wrong", f"{apart:.0e}")


def verdicts(family: str) -> dict[str, Verdict]:
    """How a family is read, by pass."""
    try:
        model = build(family)
    except Exception as error:
        return {"losses": Verdict("not built", f"{type(error).__name__}: {reason(error)[:150]}")}
    first = verdict(lambda each: ([], check_readable(each) or []), model)
    if first.word != "right":
        return dict.fromkeys(PASSES, first)
    return {name: verdict(read, model) for name, read in PASSES.items()}


def page(found: dict[str, dict[str, Verdict]]) -> str:
    """The table as Markdown, reasons as numbered notes."""
    notes: dict[str, int] = {}

    def cell(each: Verdict | None) -> str:
        if each is None:
            return ""
        if each.word == "right":
            return each.said
        return f"{each.word} [{notes.setdefault(each.said, len(notes) + 1)}]"

    rows = [
        f"| {family} | {' | '.join(cell(of.get(name)) for name in PASSES)} |" for family, of in found.items()
    ]
    counts = {name: [of[name].word for of in found.values() if name in of] for name in PASSES}
    summed = "; ".join(f"{name} {words.count('right')}" for name, words in counts.items())
    unbuilt = sum(of["losses"].word == "not built" for of in found.values())
    about = HEAD.format(version=transformers.__version__, all=len(found), right=summed, unbuilt=unbuilt)
    lines = [about, f"| family | {' | '.join(PASSES)} |", f"|{'---|' * (len(PASSES) + 1)}", *rows, ""]
    lines += [f"{number}. {said or 'without a message'}" for said, number in notes.items()]
    return "\n".join([*lines, ""])


def main(families: list[str]) -> int:
    """Read these families, or all of them and write the page; 1 if a pass is wrong or crashes."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    found, bad = {}, 0
    for family in families or FAMILIES:
        found[family] = verdicts(family)
        bad += sum(each.word in ("wrong", "crash") for each in found[family].values())
        print(f"{family}: " + "; ".join(f"{name} {each}" for name, each in found[family].items()), flush=True)
    if not families:
        PAGE.write_text(page(found), encoding="utf-8")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
