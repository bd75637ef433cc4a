"""Feature extraction, the feature file and the feature cache."""
