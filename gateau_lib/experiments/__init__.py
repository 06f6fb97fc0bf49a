"""What the notebooks call: the study's own pools, runs, tables, claims, figures, plan."""
