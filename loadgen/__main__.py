"""`python -m loadgen`: the same as `proxy-engines`."""

from loadgen.cli import main

main()
