"""What every room needs: files, progress, kept programs, quiet C libraries."""
