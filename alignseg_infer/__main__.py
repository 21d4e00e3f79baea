"""``python -m alignseg_infer``: the command ``alignseg``."""

import sys

from alignseg_infer.cli import main

sys.exit(main())
