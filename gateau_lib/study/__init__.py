"""The ground: profiles, artefacts and their keys, workers, the runner; no torch."""
