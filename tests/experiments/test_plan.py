"""Plans add up, agree with what was measured, and say in one line each what a machine lacks."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
import torch

from gateau_lib import run
from gateau_lib.evaluation import haystack
from gateau_lib.experiments import footprint, machine_check, pages, plan, setting_sources, workload
from gateau_lib.models import adapters, sizes
from gateau_lib.models.tiny import build_llama
from gateau_lib.study import profiles, registry
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.profiles import resolve
from gateau_lib.training.trainer import response_loss

RESULTS = PACKAGE.parent / "results" / "cpu"
GB = 2**30


# Sizes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_parameters_are_those_of_the_model_that_is_built(kv_heads):
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "window": 128, "rope_theta": 1e3, "seed": 0}
    model = build_llama(100, **shape, kv_heads=kv_heads)
    size = sizes.Size(2, 64, 192, 4, kv_heads or 4, 16, 100, tied=True, window=128, biased=True)
    assert size.parameters == sum(p.numel() for p in model.parameters())


def test_a_scratch_model_is_counted_as_it_is_built():
    size = workload.pair(resolve("cpu"))[1]
    manifest_says = re.search(r"Models of ([\d,]+) parameters", (RESULTS / "notebooks" / "08_findings.ipynb").read_text())
    assert manifest_says and size.parameters == int(manifest_says[1].replace(",", ""))


def test_published_sizes():
    short, long = workload.pair(resolve("paper"))
    assert short.parameters == 6_738_415_616  # Llama-2-7B, as its authors count it
    assert long.parameters == short.parameters + 2 * 256 * 4096  # LongAlign's table has 32,256 rows


def test_a_configuration_gives_the_same_size_as_the_shapes_of_estimate(saved_pair):
    from transformers import AutoConfig

    from gateau_lib.models.sizes import shape_of

    size = sizes.of(str(saved_pair[1]))
    assert size.shape == shape_of(AutoConfig.from_pretrained(saved_pair[1]))


def test_an_unknown_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(sizes.UnknownSize, match="size unknown, no configuration to read") as caught:
        sizes.of(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)


# Against a measured run ---------------------------------------------------------------------------------------------------


def recorded() -> dict[str, int]:
    """Tokens that the committed cpu study counted while it ran."""

    def printed(number: str, pattern: str) -> list[int]:
        (path,) = (RESULTS / "notebooks").glob(f"{number}_*.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(out.get("text", [])) for cell in cells for out in cell.get("outputs", []))
        return [int(found.replace(",", "")) for found in re.findall(pattern, text)]

    runs = pd.read_csv(RESULTS / "tables" / "06_runs.csv").groupby("experiment")["tokens"].sum()
    log = json.loads((RESULTS / "manifest.json").read_text(encoding="utf-8"))["profile"]
    card = pd.read_csv(RESULTS / "tables" / "01_data_card.csv").set_index("set")["tokens"]
    long, needle, short = (int(card[f"eval/{name}"]) for name in ("long", "needle", "short"))
    return {
        "pretrain the short model": sum(steps * tokens for _, steps, tokens in log["short_stages"]),
        "pretrain the long model": sum(steps * tokens for _, steps, tokens in log["long_stages"]),
        "HMG and its relatives": sum(printed("03", r"([\d,]+) tokens, [\d,]+ with padding")),
        "CAM": sum(printed("04", r"([\d,]+) tokens, [\d,]+ with padding")),
        "ProLong": sum(printed("05", r"(?:pools|documents): ([\d,]+) tokens")),
        "fine-tune on selections": int(runs["selection"]),
        "SkipAlign, its rivals": int(runs["skipping"]),
        "evaluate": 34 * (long + short) + 23 * (needle + short),  # notebook 07's models, each once; perplexities not counted
    }


def test_tokens_agree_with_the_recorded_study():
    found = {part.what: part.tokens for part in workload.work(resolve("cpu"))}
    for what, tokens in recorded().items():
        assert 0.8 < found[what] / tokens < 1.25, f"{what}: planned {found[what]:,.0f}, recorded {tokens:,}"


def test_steps_agree_with_the_recorded_study():
    table = pd.read_csv(RESULTS / "tables" / "06_runs.csv").groupby("experiment")["steps"].sum()
    steps = {part.what: part.steps for part in workload.work(resolve("cpu"))}
    assert 0.8 < steps["fine-tune on selections"] / table["selection"] < 1.25
    assert 0.8 < steps["SkipAlign, its rivals"] / table["skipping"] < 1.25


def test_hours_of_the_published_training_agree_with_what_its_authors_report():
    """LongAlign, figure 5: 23.3 hours on 8 x A800 for Llama-2-7B, sorted batching, all 10k long samples and ShareGPT."""
    profile = resolve("paper")
    hours = workload.tuning(profile, 80_000, 10_000).hours(workload.pair(profile)[1].parameters) / 8
    assert 23.3 / 1.5 < hours < 23.3 * 1.5


def test_needle_items_are_as_many_as_the_benchmark_makes(tokenizer):
    profile = resolve("paper", eval_lengths=(400,))
    made = haystack.items(["The sun rose over the hills. A dog barked. " * 9], tokenizer, (400,), haystack.DEPTHS, seed=0)
    ((count, length, _),) = workload.asked(profile, "needle")
    assert (count, length) == (len(made), 400)


def test_operations_of_one_training_step_by_hand():
    profile = resolve("gpu", tuning="lora")
    size, (sample, *_) = workload.pair(profile)[1], workload.planted(profile)
    n = sample.whole
    assert size.shape.flops(n, 0) == 2 * size.linear * n + 4 * size.layers * size.hidden * n * (n + 1) / 2
    assert (workload.passes_a_step(profile), workload.passes_a_step(resolve("paper"))) == (2, 4)


def peak(work) -> int:
    """Most bytes that torch's allocator holds at a time during a piece of work, over what it held before.

    The profiler's record of every allocation: it knows nothing of fragments and of Python, which the resident set counts too.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f"{folder}/trace.json")
        trace = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    events = [event["args"] for event in trace if event.get("name") == "[memory]"]
    held = [event["Total Allocated"] for event in events]
    return max(held) - (held[0] - events[0]["Bytes"])


LAYERS, HIDDEN, TOKENS, LABELS = 4, 128, 1024, 64


def built() -> tuple[torch.nn.Module, sizes.Size]:
    """A small model and its size."""
    model = build_llama(500, hidden_size=HIDDEN, layers=LAYERS, heads=8, window=TOKENS, rope_theta=1e4, seed=0)
    return model, sizes.Size(LAYERS, HIDDEN, 352, 8, 8, HIDDEN // 8, 500, tied=True, window=TOKENS, biased=True)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 500, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(TOKENS) < TOKENS - LABELS, -100, ids)
    places = {"attention_mask": torch.ones_like(ids), "position_ids": torch.arange(TOKENS)[None]}
    return {"input_ids": ids, "labels": labels, **places}


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_training_agrees_with_a_real_one(dtype, tuning, checkpoints, monkeypatch):
    """Two optimizer steps of a real model on the CPU, weights and optimizer states included."""

    def train() -> None:
        model = built()[0].train()
        if tuning == "lora":
            model = adapters.attach(model.to(getattr(torch, dtype)), "base", footprint.ADAPTER_RANK, seed=0)
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = response_loss(model, batch())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    size = built()[1]
    monkeypatch.setattr(workload, "pair", lambda profile: (size, size))
    monkeypatch.setattr(footprint, "_forward_passes", lambda profile, many: [(TOKENS, LABELS)])
    monkeypatch.setattr(workload, "checkpointed", lambda profile: checkpoints)
    planned = footprint.training(resolve("paper", processes=1, sharding="ddp", dtype=dtype, tuning=tuning))
    measured = peak(train)
    assert 0.75 < planned / measured < 1.33, f"planned {planned / 2**20:.1f} MB, measured {measured / 2**20:.1f} MB"


def test_memory_of_reading_agrees_with_a_real_one():
    model, size = built()
    rows = {name: value for name, value in batch().items() if name != "labels"}
    with torch.inference_mode():
        model(**rows, use_cache=False, logits_to_keep=LABELS)
        measured = peak(lambda: model(**rows, use_cache=False, logits_to_keep=LABELS))
        cached = peak(lambda: model(**rows, use_cache=True, logits_to_keep=LABELS))
    planned = TOKENS * footprint._passing(size, 4)
    assert 0.75 < planned / measured < 2
    assert 0.75 < (planned + TOKENS * size.cache * 4) / cached < 2


# Room --------------------------------------------------------------------------------------------------------------------


def test_sharing_divides_what_it_shares_and_nothing_else():
    one, eight = (footprint.training(resolve("paper", processes=n)) for n in (1, 8))
    states = 16 * workload.pair(resolve("paper"))[1].parameters
    assert one - eight > 0.8 * (states - states / 8)
    assert footprint.memory(resolve("paper", processes=1))["scoring"] == footprint.memory(resolve("paper"))["scoring"]
    assert footprint.host(resolve("paper", processes=8)) == 8 * 4 * workload.pair(resolve("paper"))[1].parameters


def test_the_host_holds_two_models_in_single_precision_for_worked_examples():
    for name in ("paper", "gpu+llama-2-7b"):
        profile = resolve(name, processes=1)
        assert footprint.host(profile) >= 2 * 4 * workload.pair(profile)[1].parameters


def test_downloads_are_counted_as_weights_are_stored():
    downloads = footprint.downloads(resolve("gpu+llama-3-8b")) | footprint.downloads(resolve("gpu+granite-2b"))
    assert downloads["princeton-nlp/Llama-3-8B-ProLong-64k-Base"] == pytest.approx(32.1e9, rel=0.01)
    assert downloads["ibm-granite/granite-3.0-2b-base"] == pytest.approx(10.1e9, rel=0.01)
    assert downloads["ibm-granite/granite-3.1-2b-base"] == pytest.approx(5.07e9, rel=0.01)
    pickled = footprint.downloads(resolve("paper"))["THUDM/LongAlign-7B-64k-base"]
    assert pickled == pytest.approx(2 * 13.5e9, rel=0.01)  # and converted


def test_adapters_are_counted_as_peft_makes_them(llama_gqa):
    adapted = adapters.attach(copy.deepcopy(llama_gqa), "base", 4, seed=0)
    made = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    config = llama_gqa.config
    size = sizes.Size(2, 32, config.intermediate_size, 4, config.num_key_value_heads, 8, 259, tied=True, window=128)
    assert footprint.adapters(size, 4) == made


def test_adapters_take_less_room_than_all_weights():
    full, lora = resolve("paper", processes=1, sharding="ddp"), resolve("paper", processes=1, sharding="ddp", tuning="lora")
    assert footprint.training(lora) < footprint.training(full) - 10 * workload.pair(full)[1].parameters
    assert footprint.disk(lora).results < footprint.disk(full).results / 10


def test_the_published_set_up_has_room_for_the_published_study():
    assert max(footprint.memory(resolve("paper"), 8).values()) < 80e9


# What is missing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """``machine(GB of each GPU, ...)``: a machine with all that it takes, but for what is said."""

    def of(*cards: float, disk: float = 1e5, host: float = 1e4, torch_version: str = "2.13.0", hub: bool = True) -> None:
        monkeypatch.setattr(machine_check, "gpu_memory", lambda: [int(each * GB) for each in cards])
        monkeypatch.setattr(machine_check, "free_disk", lambda folder: disk * GB)
        monkeypatch.setattr(machine_check, "host_memory", lambda: host * GB)
        monkeypatch.setattr(plan, "version", lambda name: torch_version)
        monkeypatch.setattr(machine_check, "answers", lambda name, kind="model": hub)
        monkeypatch.setattr(machine_check, "hub_cache", lambda: tmp_path / "hub")
        monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
        monkeypatch.delenv("GATEAU_DATA", raising=False)

    return of


def cache(root: Path, *names: str, commit: str = "") -> None:
    """Models in the hub's cache of `machine`, as safetensors, at the commit that the registry requires."""
    for name in names:
        commits = root / "hub" / f"models--{name.replace('/', '--')}" / "snapshots"
        folder = commits / (commit or registry.models()[name].revision or "0" * 40)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()


@pytest.mark.parametrize("name", ["smoke", "cpu", "rehearse-gpu", "rehearse-paper"])
def test_what_runs_anywhere_needs_nothing(name, machine):
    machine(disk=0, host=0, hub=False)
    assert machine_check.missing(resolve(name)) == [] and not profiles.needs_gpu(resolve(name))


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_plan_names_models_data_steps_hours_memory_and_disk(name, machine):
    machine(80, 80)
    text = plan.describe(resolve(name))
    words = "models, data, training, steps, tokens, operations, GPU-hours, the 2 GPU(s) here, memory, disk"
    assert all(word in text for word in words.split(", "))
    assert resolve(name).long_model in text
    assert all(part.tokens > 0 and part.operations > 0 for part in workload.work(resolve(name)))


@pytest.mark.parametrize("ray", [True, False])
def test_parts_that_one_gpu_does_are_not_divided(ray, machine, monkeypatch):
    machine(*[80] * 8)
    for module in (plan, workload):
        monkeypatch.setattr(module, "find_spec", lambda name: ray)
    profile = resolve("paper")
    hours = {part.what: part.hours(workload.pair(profile)[1].parameters) for part in workload.work(profile)}
    alone = {"recall of the pair", "short-tasks"} | (set() if ray else {"score the long samples"})
    expected = sum(hour if what in alone else hour / 8 for what, hour in hours.items())
    text = plan.describe(profile)
    assert f"{expected:,.1f} hours on the 8 GPU(s) here" in text
    assert ("the published long samples are scored on one of the 8 GPUs: Ray is not installed (pip install ray)" in text) != ray
    machine(80)
    assert "Ray" not in plan.describe(profile)


def test_a_large_enough_machine_lacks_nothing(machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(*[80] * 8)
    assert machine_check.missing(resolve("paper")) == []


def test_memory_is_of_each_gpu_not_their_sum(machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(*[24] * 8)
    lacks = machine_check.missing(resolve("paper"))
    assert len(lacks) == 3 and all("GB of each GPU, 24 GB here (use" in lack for lack in lacks)
    assert [lack.split()[0] for lack in lacks] == ["scoring", "training", "evaluation"]


def test_too_few_gpus_to_share_a_model_are_named(machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(80)
    (lack,) = machine_check.missing(resolve("paper"))
    assert re.match(r"training takes \d+ GB of each GPU, 80 GB here \(use larger or more GPUs\)", lack)


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        ({"torch_version": "2.13.0+cpu"}, "torch is the CPU build (rm -r .venv, then make env TORCH_INDEX="),
        ({"disk": 100}, "100 GB free of"),
        ({"host": 50}, "GB of memory, 50 GB are free (use a larger machine)"),
    ],
)
def test_what_else_is_lacking_is_named(lacking, says, machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(*[80] * 8, **lacking)
    (lack,) = machine_check.missing(resolve("paper"))
    assert says in lack and "\n" not in lack


def test_models_and_data_out_of_reach_are_named_with_the_command(machine):
    machine(*[80] * 8, hub=False)
    lacks = machine_check.missing(resolve("paper"))
    assert len(lacks) == 4
    assert "hf download NousResearch/Llama-2-7b-hf" in lacks[0]
    assert "THUDM/LongAlign-7B-64k-base has pickled weights only" in lacks[1]
    assert "python -c" in lacks[1] and "weights_only=True" in lacks[1]
    assert all("--repo-type dataset" in lack and "$GATEAU_DATA" in lack for lack in lacks[2:])


def test_what_is_cached_or_in_a_folder_is_within_reach(machine, tmp_path, monkeypatch):
    machine(*[80] * 8, hub=False)
    cache(tmp_path, "NousResearch/Llama-2-7b-hf", "THUDM/LongAlign-7B-64k-base")
    for key in ("longalign-10k", "sharegpt"):
        (tmp_path / "data" / key).mkdir(parents=True)
    monkeypatch.setenv("GATEAU_DATA", str(tmp_path / "data"))
    assert machine_check.missing(resolve("paper")) == []


def test_another_commit_than_the_required_one_is_not_there(machine, tmp_path):
    machine(hub=False)
    required = registry.models()["THUDM/LongAlign-7B-64k-base"].revision
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base", commit="0" * 40)
    assert f"snapshots/{required}/model.safetensors" in machine_check.model_missing(resolve("paper"), "THUDM/LongAlign-7B-64k-base")
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base", commit=required)
    assert machine_check.model_missing(resolve("paper"), "THUDM/LongAlign-7B-64k-base") == ""
    data = registry.data_sets()["longalign-10k"]
    folder = tmp_path / "hub" / f"datasets--{data.repo.replace('/', '--')}" / "snapshots"
    (folder / ("0" * 40)).mkdir(parents=True)
    assert f"--revision {data.revision}" in machine_check.data_missing(resolve("paper"), "longalign-10k")
    (folder / data.revision).mkdir()
    assert machine_check.data_missing(resolve("paper"), "longalign-10k") == ""


def test_a_model_at_another_commit_takes_room_for_the_required_one(machine, tmp_path):
    machine(disk=0)
    nothing = machine_check._disk(resolve("paper"))
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base", commit="0" * 40)
    assert machine_check._disk(resolve("paper")) == nothing
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    assert machine_check._disk(resolve("paper")) != nothing


def test_a_commit_that_the_study_has_pinned_is_required_too(machine, tmp_path):
    machine(hub=False)
    name, pins = "NousResearch/Llama-2-7b-hf", tmp_path / "results" / "paper" / "revisions.json"
    cache(tmp_path, name, commit="0" * 40)
    assert not any(name in lack for lack in machine_check.missing(resolve("paper")))
    pins.parent.mkdir(parents=True)
    pins.write_text(json.dumps({f"models/{name}": "1" * 40}))
    assert any(f"{name} --revision {'1' * 40}" in lack for lack in machine_check.missing(resolve("paper")))


@pytest.mark.parametrize("name", ["paper", "gpu+llama-3-8b", "gpu+granite-2b"])
def test_what_is_missing_is_one_line_that_begins_with_what_it_is(name, machine):
    lacks = []
    for cards in ([], [4], [4] * 8):
        machine(*cards, hub=False, disk=1, host=1, torch_version="2.13.0+cpu")
        lacks += machine_check.missing(resolve(name))
    for lack in lacks:
        said, _, remedy = lack.partition(" (")
        assert "\n" not in lack and len(said) < 150 and remedy.endswith(")"), lack


def test_a_gated_model_says_so(machine):
    machine(hub=False)
    said = machine_check.model_missing(resolve("paper"), "meta-llama/Meta-Llama-3-8B-Instruct")
    assert "hf download meta-llama/Meta-Llama-3-8B-Instruct" in said and "accept its licence" in said


def test_data_that_is_not_on_the_hub_says_where_to_put_it(machine):
    machine()
    said = machine_check.data_missing(resolve("paper"), "longbench-chat")
    assert "test_cases.json" in said and "$GATEAU_DATA/longbench-chat" in said


@pytest.mark.parametrize("name", registry.pairs())
def test_sizes_of_the_registry_add_up(name):
    pair = registry.pairs()[name]
    assert [sizes.of(entry.repo).parameters for entry in (pair.short, pair.long)] == [pair.short.parameters, pair.long.parameters]


@pytest.mark.parametrize("name", ["gpu", "gpu+granite-2b"])
def test_gpu_fits_one_card_of_24_gb(name):
    assert max(footprint.memory(resolve(name), 1).values()) < 24e9


def test_benchmarks_that_will_not_run_are_a_note(machine):
    machine(*[80] * 8, hub=False)
    said = "\n".join(plan.notes(resolve("paper")))
    assert "longbench will be reported as not run" in said and "need a judge" in said


def test_the_run_stops_with_the_plan_s_own_list(machine, capsys):
    machine(hub=False)
    assert run.main(["paper"]) == 2
    *said, last = capsys.readouterr().err.splitlines()
    missing = [line for line in said if line.startswith("  missing  ")]
    assert last == f"error: profile paper cannot run here: {len(missing)} things are missing, listed above"
    assert missing[0].startswith("  missing  no NVIDIA GPU is visible")
    assert any("hf download NousResearch/Llama-2-7b-hf" in line for line in missing)


def test_a_slip_in_the_command_is_named_before_the_plan(machine, capsys):
    machine(hub=False)
    assert run.main(["paper", "--notebook", "77"]) == 2
    assert capsys.readouterr().err.startswith("error: no notebook '77'")
    assert run.main(["paper", "--set", "onlyy=3"]) == 2
    assert "unknown parameter 'onlyy'" in capsys.readouterr().err


def test_a_part_of_a_profile_is_not_refused_for_the_disk_of_all_of_it(machine, monkeypatch):
    machine()
    monkeypatch.setattr(machine_check, "_disk", lambda profile: ["1,335 GB needed"])
    assert "1,335 GB needed" in machine_check.missing(resolve("paper"))
    assert "1,335 GB needed" not in machine_check.missing(resolve("paper"), whole=False)


def test_plan_only_prints(machine, capsys, tmp_path):
    machine()
    assert run.main(["gpu", "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("plan of profile gpu") and "  missing  no NVIDIA GPU" in said
    assert not list((tmp_path / "results" / "gpu" / "cache").iterdir())


def test_results_that_are_there_need_no_more_room(machine, tmp_path):
    machine(*[80] * 8)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    (Path(tmp_path) / "results" / "paper" / "file").write_bytes(b"x" * 1000)
    assert machine_check._used(tmp_path / "results" / "paper") == 1000 and machine_check._used(tmp_path / "nothing") == 0


# The page -----------------------------------------------------------------------------------------------------------------


def test_the_pages_tables_are_those_of_the_code():
    text = pages.SCALE.read_text(encoding="utf-8")
    assert pages.filled(text) == text, "docs/scale.md is out of date: make readme"


def test_every_field_of_the_paper_profile_has_a_source_or_says_that_it_is_ours():
    assert all(source for _, _, source in setting_sources.rows())
    published = {"epochs": 2.0, "batch_samples": 96, "sft_learning_rate": 2e-5, "long_samples": 10_000, "alphas": (0.8, 0.7)}
    published |= {"short_samples": (100_000, 10_000), "shares": (0.1, 0.3, 0.5), "max_length": 64_000, "long_window": 65_536}
    published |= {"segment_length": 128, "prolong_pairs": 5_000, "benchmark_window": 64_000}
    published |= {"tuning": "full", "dtype": "bfloat16"}
    assert {name: getattr(resolve("paper"), name) for name in published} == published


def test_what_the_trainer_fixes_is_as_published():
    given = setting_sources.trainer_arguments()
    assert (given.adam_beta1, given.adam_beta2, given.weight_decay, given.warmup_steps) == (0.9, 0.95, 0.0, 3)
    assert given.lr_scheduler_type == "cosine" and given.max_grad_norm == 1.0 and given.learning_rate == 2e-5
