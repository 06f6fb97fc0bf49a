"""GATEAU, ProLong and SkipAlign, studied end to end: the library behind the notebooks.

A file at the root is a command; nobody imports it. A folder is a room and imports only rooms below it:

    commands > bridges | experiments > scoring | training | evaluation
             > methods | sources > data > models > study

Read `methods` first: it holds the papers. docs/architecture.md has a line for each module.

Tree
----
gateau_lib/   commands
bridges/      into other tools: a step for datatrove, an operator for Data-Juicer, files for trainers
experiments/  what the notebooks call: the study's own pools, runs, tables, claims, figures, plan
scoring/      a user's data set: scored in shards, ranked, selected, reported
training/     fine-tuning and pretraining: one run as data, its batches, its processes
evaluation/   questions and their answers: planted tasks, needle, benchmarks
methods/      the papers, one file a method: formula, source, open points
sources/      what others have: models and data of the hub, documents, models that answer
data/         texts to token ids: samples, records, and the planted world
models/       token ids in, numbers out: loading, RoPE, attention, losses
study/        the ground: profiles, artefacts and their keys, workers, the runner; no torch

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
gain of the whole context on key tokens         LongPPL    methods.longppl.key_token_gain
gain weighted by the tokens' probability        LongFilter  methods.longfilter.weighted_gain
fall of the entropy by the far context          ours       methods.delta_entropy.entropy_drop
min NLL given a segment - NLL given all         ours       methods.segment_contrast.best_segment_gap
NLL without a segment - NLL with all of them    ours       methods.leave_one_out.leave_one_out
attention of a segment's strongest tokens       ours       methods.head_attention.by_segment
bytes that far context saves on the response    ours       methods.compressors.bytes_saved
share of words that only the far context holds  ours       methods.word_matching.only_far
loss of a step: over tokens, or over samples    LongAlign  training.trainer.response_loss
samples sorted by length into batches           LongAlign  training.packing.plan_epochs
F1 of words; ROUGE-L                            LongBench  evaluation.text_metrics.f1_en, rouge_en
area under the ROC curve; precision at the top  ours       experiments.ranking.auc, precision_at
t-interval over pairs                           ours       study.intervals.t_interval
verdict of a claim                              ours       experiments.claims.verdict
"""
