"""What a verdict is judged by: limits, where they come from, and waivers."""
