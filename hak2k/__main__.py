"""`python -m hak2k` is hak2kctl."""

import sys

from hak2k.cli import hak2kctl_main

sys.exit(hak2kctl_main())
