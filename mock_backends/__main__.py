"""`python -m mock_backends`."""

import sys

from mock_backends.cli import main

sys.exit(main())
