"""The version of fmjax."""

__version__ = "0.1.0"
