"""Questions and their answers: planted tasks, needle, benchmarks."""
