"""The tools whose logs are known: one file a tool, one line here."""

from fmjax.importers import (
    huggingface,
    levanter,
    maxtext,
    megatron,
    nanochat,
    plain_csv,
    tensorboard,
    torchtitan,
    wandb,
)
from fmjax.importers.source import Source

_TOOLS = (huggingface, maxtext, levanter, wandb, torchtitan, megatron, tensorboard, nanochat, plain_csv)

SOURCES: dict[str, Source] = {tool.SOURCE.name: tool.SOURCE for tool in _TOOLS}
"""Tools by name; where a file may be of several, the earlier one is tried first."""
