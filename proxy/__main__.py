"""`python -m proxy serve --config FILE`."""

import signal
import sys

# First of all: until there is a handler, half a second later, an order to reload would end the process. The file is
# read during the start anyway.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from proxy.cli import main  # noqa: E402  # see above

if __name__ == "__main__":
    sys.exit(main())
