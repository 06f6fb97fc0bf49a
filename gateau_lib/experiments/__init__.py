"""What the notebooks call: pools, tuning, outcomes, claims, figures, the plan."""
