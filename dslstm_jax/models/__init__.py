"""Flax linen owns the weights; the plain functions of features/ and recurrence/ do the computing."""
