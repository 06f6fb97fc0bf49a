"""The papers, one file a method: formula, source, open points."""
