"""``python -m alignseg_infer.cli``: the command ``alignseg``."""

import sys

from alignseg_infer.cli import main

sys.exit(main())
