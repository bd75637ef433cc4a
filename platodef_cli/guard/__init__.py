"""The defence in production: features are cleaned as they come, and the share of flagged ones is watched."""
