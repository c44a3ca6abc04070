"""The pure step, where it runs, and the loop around it."""
