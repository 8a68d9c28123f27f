"""The tools whose logs are known: one file a tool and one line here, or one entry in ``line_formats``."""

from fmjax.importers import huggingface, levanter, maxtext, megatron, plain_csv, tensorboard, torchtitan, wandb
from fmjax.importers.printed_lines import PRINTED
from fmjax.importers.source import Source

_FIRST = (huggingface, maxtext, levanter, wandb, torchtitan, megatron, tensorboard)
_LAST = (plain_csv,)

SOURCES: dict[str, Source] = {
    **{tool.SOURCE.name: tool.SOURCE for tool in _FIRST},
    **{name: source for name, source in PRINTED.items() if name != megatron.SOURCE.name},
    **{tool.SOURCE.name: tool.SOURCE for tool in _LAST},
}
"""Tools by name; where a file may be of several, the earlier one is tried first."""
