"""Fine-tuning and pretraining: jobs, batches, position ids, runs."""
