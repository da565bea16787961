"""`python -m fxgrow`, and the script `fxgrow`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C is one line also while it is imported."""
    try:
        from fxgrow.cli import main as run
    except KeyboardInterrupt:
        print("fxgrow: stopped by Ctrl-C; nothing was written", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
