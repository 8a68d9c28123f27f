"""The version of fmjax."""

__version__ = "0.2.0"
