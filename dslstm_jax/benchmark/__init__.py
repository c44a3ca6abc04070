"""How fast what we ship runs, beside its peers."""
