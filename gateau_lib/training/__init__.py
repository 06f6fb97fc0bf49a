"""Fine-tuning and pretraining: one run as data, its batches, its processes."""
