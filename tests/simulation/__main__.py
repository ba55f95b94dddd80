import sys

from tests.simulation.runner import main

sys.exit(main())
