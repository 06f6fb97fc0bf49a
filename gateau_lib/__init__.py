"""GATEAU, ProLong and SkipAlign, studied end to end: the library behind the notebooks.

A file at the root is a command; nobody imports it. A folder is a room and imports only rooms below it:

    commands > experiments > scoring | training | evaluation > methods | sources > data > models > study

Read `methods` first: it holds the papers. docs/architecture.md has a line for each module and each formula.

Tree
----
gateau_lib/   commands
experiments/  what the notebooks call: the study's own pools, runs, tables, claims, figures, plan
scoring/      a user's data set: scored in shards, ranked, selected, reported
training/     fine-tuning and pretraining: one run as data, its batches, its processes
evaluation/   questions and their answers: planted tasks, needle, benchmarks
methods/      the papers, one file a method: formula, source, open points
sources/      what others have: models and data of the hub, documents, models that answer
data/         texts to token ids: samples, records, and the planted world
models/       token ids in, numbers out: loading, RoPE, attention, losses
study/        the ground: profiles, artefacts and their keys, workers, the runner; no torch
"""
