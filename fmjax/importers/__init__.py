"""Public loss curves as they are published: one file a source, each with one ``load`` that reads a local clone."""

from fmjax.importers import lr_scheduling, multi_power_law

__all__ = ["lr_scheduling", "multi_power_law"]
