"""From web archives to clean shards. `python -m pipeline --help` lists the stages."""
