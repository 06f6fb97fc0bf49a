"""Texts to token ids: samples, records, and the planted world."""
