"""Texts to token ids: samples, records, the planted world, the hub."""
