"""platodef: tells whether a downloaded vision encoder can be trusted."""

__version__ = "0.1.0"
