"""A user's data set: scored in shards, ranked, selected, reported."""
