"""Loss curves of others: logs of training tools, one file a tool, and public data sets, each with one ``load``."""

from fmjax.importers import lr_scheduling, multi_power_law
from fmjax.importers.intake import AS_NAMED, Imported, import_logs
from fmjax.importers.source import Columns
from fmjax.importers.sweeps import is_sweep, load_sweep, read_sweep
from fmjax.importers.tools import SOURCES

__all__ = ["AS_NAMED", "SOURCES", "Columns", "Imported", "import_logs", "is_sweep", "load_sweep"]
__all__ += ["lr_scheduling", "multi_power_law", "read_sweep"]
