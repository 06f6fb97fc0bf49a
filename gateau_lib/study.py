"""The ground: profiles, artefacts and their keys, workers, progress, and the notebooks' runner. Never loads torch."""
