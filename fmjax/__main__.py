"""``python -m fmjax``: the command line."""

from fmjax.cli import main

if __name__ == "__main__":
    main()
