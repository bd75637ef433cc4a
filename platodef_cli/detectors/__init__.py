"""Detectors: one suspicion score per sample, higher is more suspicious."""
