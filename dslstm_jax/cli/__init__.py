"""The command line: one file a family of commands."""

from dslstm_jax.cli.entry import main

__all__ = ["main"]
