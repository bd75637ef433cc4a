"""The energy, denoiser and ridge heads: definition, training and storage."""
