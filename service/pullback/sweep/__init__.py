"""One sweep: planned into shards, sampled, computed shard by shard, run to its end."""
