"""python -m dslstm_jax: the same as the command dslstm."""

import sys

from dslstm_jax.cli import main

sys.exit(main())
