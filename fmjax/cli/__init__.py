"""The command line: parse, call, print."""

import os
import sys

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def main() -> None:
    """Entry point of the ``fmjax`` command."""
    try:
        from fmjax.cli.commands import run
    except ModuleNotFoundError as error:
        sys.exit(f"fmjax: the command line needs {error.name}: pip install 'fmjax[cli]'")
    except KeyboardInterrupt:  # importing takes a second or two
        sys.exit(INTERRUPTED)
    code = run(sys.argv[1:])
    if code == INTERRUPTED:  # threads that compile would hold Python up
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
