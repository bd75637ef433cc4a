"""What an audit will compute and how long that takes, before it does."""
