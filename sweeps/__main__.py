"""`python -m sweeps …`."""

import sys

if __name__ == "__main__":
    try:
        from sweeps.cli import main

        main()
    except KeyboardInterrupt:  # while all that is being imported, too
        print("interrupted", file=sys.stderr)
        sys.exit(130)
