r"""What tools print: a few lines a format, and a general reader of a number after a known word.

A format is one or several regular expressions of lines, in which named groups are columns: ``step``, ``total`` (updates
that the run is to have), ``loss`` and so on. With ``pairs``, each line holds further columns by name. A line of such a
file, and what the format ``megatron`` takes from it::

     iteration      400/    1000 | learning rate: 3.000E-05 | lm loss: 3.361E+00 |
                    ^step   ^total ^column: value             ^column: value

In a format of blocks, a line with the step stands above the lines with its values. Expressions are of the common part
of Python's and RE2's languages, which has no lookahead. What may repeat is bounded, or cannot begin anew inside itself,
so that no text makes a search slow.
"""

from typing import NamedTuple

from fmjax.importers.column_names import HELD_OUT, LOSSES, RATES, Preference

NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VALUE = rf"(?P<v>{NUMBER}|[Nn]a[Nn]|-?[Ii]nf)"
_STEP = r"(?P<step>\d[\d,]{0,15})"
_OF_TOTAL = r"[ ]{0,9}/[ ]{0,9}(?P<total>\d[\d,]{0,15})"

COLON_IN_BARS = rf"\|\s*{{key}}:\s*{_VALUE}\s*(?:\||$)"
COLON = rf"(?:^|[\s|,]){{key}}:\s*{_VALUE}(?:[\s,;|)%]|$)"
EQUALS = rf"(?:^|[\s,\[(]){{key}}=\s*{_VALUE}(?:[\s,;|)\]%]|$)"
QUOTED = rf"""["']{{key}}["']\s*:\s*["']?{_VALUE}["']?\s*[,}}}}]"""
LOOSE = rf"""(?:^|[^\w/.-]){{key}}["']?\s*(?:\([^)=:]*\))?\s*[:=]?\s*["']?{_VALUE}(?:[^\w.]|\.?$)"""

_KIND = (
    r"(?:train(?:ing)?|val(?:id(?:ation)?)?|eval(?:uation)?|test|dev|lm|ce|avg|average|mean|batch|step|total|current)"
)
_KNOWN = (
    r"(?:loss|cross[_ -]?entropy(?:[_ ]?loss)?|nll|lrm?|learning[_ -]?rate|bpb|epoch|batch[_ -]size|"
    r"tokens[_ -]per[_ -](?:step|update|batch))"
)
KNOWN_WORDS = rf"(?:{_KIND}[ _]){{0,4}}[\w/.-]{{0,40}}{_KNOWN}[\w/.-]{{0,40}}(?: (?:train|val|step)\b)?"
"""A name that ends in, or goes on from, a word for a loss, a rate or a batch."""

_COUNTER = r"(?:global[_ -]?step|num[_ -]?updates?|(?:train(?:ing)?[_ -])?(?:step|iteration|iter|update|batch)s?|it)"


class LineFormat(NamedTuple):
    """How a tool prints its rows; see the module."""

    name: str
    title: str
    """The tool, in words."""
    rows: tuple[str, ...]
    """Lines of a row, the most telling first. Named groups are columns."""
    pairs: str = ""
    """A column and its number within such a line, with ``{key}`` in the place of the column's name."""
    keys: str = r"[A-Za-z_][\w ./()*-]*?"
    """Names that may stand there."""
    is_block: bool = False
    """Whether the pairs stand in the lines below the row's."""
    first: int | None = None
    """What the row after the first update has for a step; None where tools differ."""
    is_counted_in_epochs: bool = False
    """Whether rows have an epoch and no step, which follows from the progress bars between them."""
    loss: tuple[str, ...] | Preference = LOSSES
    validation: tuple[str, ...] | Preference = HELD_OUT
    rate: tuple[str, ...] | Preference = RATES
    smoothed: tuple[str, ...] = ()
    """Columns of losses that the tool itself smooths."""
    notes: tuple[str, ...] = ()
    """What readers of its numbers should know."""
    is_general: bool = False
    """Whether the format is of no tool."""
    share: float = 0.0
    """Share of a file's lines that must be rows, for a format whose rows do not differ from other text."""


FORMATS = (
    LineFormat(
        "megatron",
        "Megatron-LM, Megatron-DeepSpeed or GPT-NeoX",
        (
            rf"iteration\s+{_STEP}{_OF_TOTAL}\s*\|",
            rf"validation (?:loss|results?) at iteration {_STEP} .{{0,100}}\blm[ _-]loss value: "
            rf"(?P<validation_lm_loss>{NUMBER})",
        ),
        COLON_IN_BARS,
        first=1,
        loss=("lm loss", "lm_loss", "loss"),
        validation=("validation_lm_loss",),
        rate=("learning rate", "learning_rate", "lr"),
    ),
    LineFormat(
        "nanotron",
        "nanotron",
        (rf"\biteration: {_STEP} / (?P<total>\d+) \|",),
        COLON_IN_BARS,
        first=1,
    ),
    LineFormat(
        "olmo",
        "OLMo or OLMo-core",
        (rf"\[step={_STEP}(?:/(?:(?P<total>\d+)|\?+))?(?:,[^\]]*)?\]",),
        rf"^\s+{{key}}=\s*{_VALUE}\s*$",
        is_block=True,
        first=1,
    ),
    LineFormat(
        "composer",
        "Composer",
        (rf"^(?:\[epoch=(?P<epoch>\d+)(?:/\d+)?\])?\[batch={_STEP}(?:/(?P<total>\d+))?\]",),
        rf"^\s+{{key}}: {_VALUE}\s*$",
        is_block=True,
        first=1,
    ),
    LineFormat(
        "maxtext-stdout",
        "the output of MaxText",
        (
            rf"completed step: {_STEP}, .{{0,300}}, loss: (?P<loss>{NUMBER})",
            rf"eval metrics after step: {_STEP},\s*loss=(?P<eval_loss>{NUMBER})",
            rf"average loss after step=?\s*{_STEP}: eval_loss=(?P<eval_loss>{NUMBER})",
        ),
        first=0,
    ),
    LineFormat(
        "litgpt",
        "LitGPT",
        (
            rf"\biter\s+\d+ step\s+{_STEP} \| loss train: (?P<train_loss>{NUMBER}),\s*val: "
            rf"(?:(?P<val_loss>{NUMBER})|n/a)",
        ),
        first=1,
    ),
    LineFormat(
        "nanogpt",
        "nanoGPT",
        (
            rf"^[ \t]*iter {_STEP}: loss (?P<loss>{NUMBER})",
            rf"^[ \t]*step {_STEP}: train loss (?P<train_loss_of_evaluation>{NUMBER}), val loss (?P<val_loss>{NUMBER})",
        ),
        first=0,
        loss=("loss", "train_loss_of_evaluation"),
    ),
    LineFormat(
        "build-nanogpt",
        "build-nanogpt",
        (rf"^[ \t]*{_STEP} train (?P<train_loss>{NUMBER})\s*$", rf"^[ \t]*{_STEP} val (?P<val_loss>{NUMBER})\s*$"),
        first=0,
    ),
    LineFormat(
        "llmc",
        "llm.c or the first speedruns of modded-nanogpt",
        (
            rf"^s:{_STEP} trl:(?P<train_loss>{NUMBER})(?: lr:(?P<lr>{NUMBER}))?",
            rf"^s:{_STEP} tel:(?P<val_loss>{NUMBER})",
        ),
        first=0,
    ),
    LineFormat(
        "nanochat",
        "nanochat",
        (
            rf"(?i)^[ \t]*step {_STEP}{_OF_TOTAL} \([^)]*\) \|.*\blrm: ",
            rf"(?i)^[ \t]*step {_STEP} \| validation bpb: (?P<validation_bpb>{NUMBER})",
        ),
        COLON,
        first=0,
        loss=("loss", "train_loss"),
        validation=("val_loss", "val loss", "validation_bpb"),
        smoothed=("loss",),
    ),
    LineFormat(
        "modded-nanogpt",
        "modded-nanogpt",
        (rf"^[ \t]*step:{_STEP}{_OF_TOTAL} (?:train_loss|val_loss):",),
        COLON,
        first=0,
    ),
    LineFormat(
        "torchtitan-stdout",
        "the output of torchtitan",
        (rf"\bstep:\s*{_STEP}(?:{_OF_TOTAL})?\s+loss:\s*(?P<loss>{NUMBER})\s+(?:\w+:)",),
        rf"\s{{key}}:\s*{_VALUE}(?:\s|$)",
        keys=r"lr|learning_rate",
        first=1,
    ),
    LineFormat(
        "fairseq",
        "fairseq",
        (
            rf"""\| train_inner \|.{{0,600}}["']?\bnum_updates["']?\s*[=:]\s*["']?{_STEP}""",
            rf"""\|\s*valid(?: on '\w+' subset)? \|.{{0,600}}\b(?:valid_)?num_updates["']?\s*[=: ]\s*["']?{_STEP}""",
        ),
        QUOTED,
        first=1,
        loss=("loss",),
        validation=("valid_loss",),
        notes=("losses of fairseq are in bits",),
    ),
    LineFormat(
        "huggingface-stdout",
        "the output of the Hugging Face Trainer",
        (r"""\{['"](?:eval_)?loss['"]: [^{}]*['"]epoch['"]: ['"]?(?P<epoch>\d[\d.]*)""",),
        QUOTED,
        keys=r"\w+",
        first=1,
        loss=("loss",),
        validation=("eval_loss",),
        rate=("learning_rate",),
        is_counted_in_epochs=True,
    ),
    LineFormat(
        "clu",
        "the metric writers of Flax's examples and T5X",
        (rf"logging_writer\.py:\d+\] \[{_STEP}\] ",),
        EQUALS,
        keys=r"[\w/.-]+",
    ),
    LineFormat(
        "progress-bar",
        "a progress bar with a loss, such as Lightning's",
        (rf"(?i)(?:\bepoch\W+(?P<epoch>\d+)\b[^|]{{0,200}}\|[^|]{{0,200}})?\|\s*{_STEP}/(?P<total>\d+) \[",),
        rf"(?i){LOOSE}",
        keys=KNOWN_WORDS,
        is_general=True,
    ),
    LineFormat(
        "lines",
        "lines with a step and a loss",
        (
            rf"(?i)(?:^|[^\w/]){_COUNTER}\b[\"']?\s*[:=#]?\s*[\"'\[(]?\s*{_STEP}"
            rf"(?:\s*(?:/|of)\s*(?P<total>\d+))?(?:[^\w.]|\.?$)",
            rf"(?i)(?:^|[^\w/]){_STEP}\s*/\s*(?P<total>\d+) (?:batches|steps|iters|iterations|updates)\b",
        ),
        rf"(?i){LOOSE}",
        keys=KNOWN_WORDS,
        is_general=True,
    ),
    LineFormat(
        "two-columns",
        "two columns, step and loss",
        (rf"^[ \t]*{_STEP}[\s,;]\s*(?P<loss>{NUMBER})\s*$",),
        share=0.9,
    ),
)
"""Formats of lines; where a file may be of several, the earlier one is tried first."""
