"""Corpora as tensorflow-datasets records."""
