"""The command ``charlm``, and ``python -m charlm``."""

import sys


def run() -> int:
    """Run the command; whoever stops it while it is still being imported sees no traceback."""
    try:
        from charlm.cli import main

        return main()
    except KeyboardInterrupt:
        print("\ncharlm: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
