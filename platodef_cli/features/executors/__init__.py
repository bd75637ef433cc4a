"""Executors: run the extraction of shards, here or elsewhere."""
