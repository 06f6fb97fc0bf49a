"""Token ids in, numbers out: loading, RoPE, attention, losses."""
