"""What a trained network is worth: figures, their intervals, cross-validation."""
