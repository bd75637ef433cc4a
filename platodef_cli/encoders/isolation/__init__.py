"""The suspect in a child process: limits, no network, bounded answers."""
