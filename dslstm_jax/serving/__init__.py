"""What users of a trained recognizer call."""
