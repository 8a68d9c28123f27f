"""The command line: parse, call, print."""

import sys


def main() -> None:
    """Entry point of the ``fmjax`` command."""
    try:
        from fmjax.cli.commands import run
    except ModuleNotFoundError as error:
        sys.exit(f"fmjax: the command line needs {error.name}: pip install 'fmjax[cli]'")
    except KeyboardInterrupt:  # importing takes a second or two
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))
