"""How good a recognizer is, and showing it."""
