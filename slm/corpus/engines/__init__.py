"""What makes the shards of a plan: processes of this machine, or a Ray cluster. Both run `slm.corpus.job`."""
