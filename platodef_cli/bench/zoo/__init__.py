"""The zoo: clean, derived and backdoored encoders with ground-truth cards."""
