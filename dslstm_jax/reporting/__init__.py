"""Every table, picture and report."""
