"""Metrics of detection, purification, alignment and the paper's guarantee."""
