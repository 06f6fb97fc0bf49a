"""GATEAU, ProLong and SkipAlign, studied end to end: the library behind the notebooks.

A file at the root is a command; nobody imports it. A folder is a room and imports only rooms below it:

    commands > experiments > scoring | training | evaluation > methods | sources > data > models > study

Read `methods` first: it holds the papers. docs/architecture.md has the same map; a test keeps both true.

Map
---
gateau_lib/             commands
    __main__            all of them by one name, gateau
    run                 bring the study's notebooks up to date; say what is stale and why
    score               score the long samples of a data set
    select              select samples by their scores, and report the choice
    synthesis           make long instruction samples from documents
    train               one process of a training run
    jobs                training runs that are started by hand, on other machines
    bench               measure what scoring costs on this machine
    pages               write the generated parts of README.md and docs

experiments/            what the notebooks call: the study's own pools, runs, tables, claims, figures, plan
    study_corpus        the planted corpus as an artefact, and the tokenizer that reads it
    pool                every score of the candidate pools, computed once and kept
    pool_tables         the tables of those scores, each computed in a process of its own
    ranking             from scores to rankings, selections, and rows that the claims are judged by
    tuning_runs         which training runs there are, and what their logs say
    outcomes            what the training runs came to: held-out evaluation as tables
    defects             what each defect of the released procedures changes
    replication         GATEAU's own experiment, on its own models and data
    replication_rows    the rows of GATEAU's tables, and what each selects
    replication_tables  GATEAU's tables, reported and measured side by side
    claims              the ledger of claims, and their verdicts
    findings            verdicts as sentences, and beside what the papers report
    figures             one function a figure, of pools and scores
    training_figures    figures of training batches and of several models
    plan                what a profile will cost, before anything runs
    workload            what costs are counted with: sizes of the pair, lengths of samples, operations
    footprint           memory and disk that a profile takes
    machine_check       what a run needs and this machine lacks
    setting_sources     the published source of every setting, or what was assumed
    pages               what is written into README.md and docs
    rehearsal           a hub's cache with fabricated models and data in the places of the published ones
    rehearsal_data      its data sets, in the forms of the published ones

scoring/                a user's data set: scored in shards, ranked, selected, reported
    settings            what decides a score, beside data and models
    worker              what a worker needs before its first shard
    scorer              one record in, one row of scores out
    part_files          shards scored once each: part files that are right or absent
    score_table         the table of scores: columns, writing, reading
    data_set            a whole data set: shards, table, manifest, summary
    cluster             shards on a Ray cluster
    pass_costs          tokens, operations and GPU-hours of every pass
    choice              a selection: scores joined with their data, ranked, chosen, written
    dedup               near-identical contexts of a pool
    report              a selection as one HTML page
    speed               how fast scoring is, against released procedures and plain passes
    speed_goals         which goals of speed were met

training/               fine-tuning and pretraining: one run as data, its batches, its processes
    recipe              one fine-tuning run as data
    minibatches         which rows a run trains on, step by step
    packing             which samples go into which optimizer step
    input_rows          samples as rows of ids, labels and positions
    trainer             transformers' Trainer with the loss of a step
    sft                 a recipe in, a model folder out; exact resume
    reports             what processes tell the one that launched them; what a failed run says
    fine_tuning         all fine-tuning runs of a study, and the processes of this machine that train them
    pretrain            a homologous pair from scratch, in minutes
    pretrain_rows       the rows of planted text that the pair learns from

evaluation/             questions and their answers: planted tasks, needle, benchmarks
    answers             what counts as an answer in a text
    planted             answer tokens, generated answers, the needle map, perplexity by length
    haystack            a fact hidden in real text
    benchmark_item      one item of a benchmark, cut and scored
    answering           a model's answers to items, each kept as soon as it is written
    text_metrics        LongBench's measures of a written answer
    longbench           LongBench's tasks of GATEAU's tables
    ruler               tasks in RULER's manner
    judging             LongBench-Chat and MT-Bench, rated by a judge
    short_tasks         short tasks, by lm-evaluation-harness
    suite               the table of benchmarks, asked of every run

methods/                the papers, one file a method: formula, source, open points
    base                what a method is: one entry for scoring, selecting, the plan and the figures
    hmg                 GATEAU: homologous models' guidance
    cam                 GATEAU: contextual awareness measurement
    gateau              GATEAU: the combination of both
    prolong             ProLong: long-dependency score of a document
    skipalign           SkipAlign: position ids with gaps; PoSE and RandPos
    baselines           what the papers compare with, and cheap selectors that they do not
    longattn            LongAttn: how much attention goes far back, and how evenly
    cam_adaptive        CAM from a part of the segments
    selection           from scores to a selection
    reader              some samples read by both models, each pass once, whoever asks
    model_passes        what the models are asked for: losses, the short reader, the long pass, segments
    pair_passes         the same for ProLong's pairs of segments
    released            GATEAU's public code as it was released, defect by defect
    released_prolong    ProLong's public code as it was released

sources/                what others have: models and data of the hub, documents, models that answer
    hub                 repositories of models and data by name: the cache, or the hub
    published           published data sets, from the hub or from folders of one's own
    conversion          published files turned into samples, questions and texts
    documents           documents of a folder
    synthesis           long instruction samples that a model writes
    chat                a model that answers messages: an endpoint or a local one
    transcript          all that was asked and answered

data/                   texts to token ids: samples, records, and the planted world
    samples             the one type of a sample, and its token ids
    longalign           LongAlign's records, read and written
    sharded             a data set as shards that prove themselves unchanged
    world               a small English in which every dependency is known
    passages            texts of that world, with facts at wanted places
    questions           what is asked of a planted document
    corpus              samples with planted, labelled dependencies
    tokenizer           one tokenizer for planted and real text

models/                 token ids in, numbers out: loading, RoPE, attention, losses
    loading             causal language models from folders and the hub
    rope                window and base, and a model stretched beyond its window
    tiny                tiny models from scratch
    adapters            LoRA
    attention           exact attention in rows and windows, beside the fast kernel
    output_head         the losses of many tokens without all their logits at once
    nll                 mean loss of a continuation, in nats a token
    prefixes            keys and values of prefixes, encoded once
    generate            greedy continuation
    prompts             how a prompt is written, and its token ids
    pair                the two models that score, checked to be of one family
    sizes               what of a model decides its cost
    memory              peak memory of one piece of work

study/                  the ground: profiles, artefacts and their keys, workers, the runner; no torch
    profiles            one dial for the whole study: smoke, cpu, gpu, paper
    profile_fields      what a profile fixes, each size with its unit and source
    registry            models and data sets known by name
    store               artefacts by the key of their content
    evidence            the small files that git keeps: metrics, tables, ids, figures
    whole_files         files that appear whole or not at all, and locks
    code_hash           a hash of the library code that a piece of code depends on
    definitions         what every definition says, and which others it names
    bindings            where names in the modules lead
    keys                the content keys of all code that makes results
    outputs             what a command is about to write, checked before any work
    workers             many small jobs over a few processes
    devices             which devices this machine has
    progress            progress of long loops
    errors              what a person did wrong, in one line
    command             how every command ends, and how it talks
    intervals           means and their intervals over seeds
    style               colours, labels, byte-stable SVG
    labels              what readers see in place of short names
    manifest            what made each result, where, at what cost
    notebooks           notebooks as data
    staleness           what a notebook depends on, and whether it is still good
    record              how a run of a notebook is recorded
    execute             one notebook through papermill

Formulas
--------
PPL(y given c, x) = exp(mean NLL of response)   GATEAU     methods.model_passes.response_nll
short model beyond its window: NTK, cut, raw    GATEAU     methods.model_passes.short_reader_nll
θ' = θ f^(d / (d - 2)), RoPE's base             GATEAU     models.rope.ntk_theta
gap = minmax(PPL short) - minmax(PPL long)      GATEAU     methods.hmg.pool_gap
HMP = softmax(gap), over a pool                 GATEAU     methods.hmg.homologous_models_perplexity
importance = softmax(-NLL given one segment)    GATEAU     methods.cam.importance_vector
attention to a segment, mean over layers        GATEAU     methods.cam.attention_vector
CAM = 1 - cos(importance, attention)            GATEAU     methods.cam.contextual_awareness
α HMP + (1 - α) CAM, in three scales            GATEAU     methods.gateau.combine
strength, distance, specificity of a pair       ProLong    methods.prolong.dependency_terms
LDS = Σ (strength + distance) specificity       ProLong    methods.prolong.long_dependency_score
positions with gaps; PoSE; RandPos              SkipAlign  methods.skipalign.skip_positions
IFD = NLL(y given x) / NLL(y)                   Cherry     methods.baselines.instruction_following_difficulty
strength of far attention - N variance / 2      LongAttn   methods.longattn.long_attention_score
loss of a step: over tokens, or over samples    LongAlign  training.trainer.response_loss
samples sorted by length into batches           LongAlign  training.packing.plan_epochs
F1 of words; ROUGE-L                            LongBench  evaluation.text_metrics.f1_en, rouge_en
area under the ROC curve; precision at the top  ours       experiments.ranking.auc, precision_at
t-interval over seeds                           ours       study.intervals.t_interval
verdict of a claim                              ours       experiments.claims.verdict
"""
