"""From files on disk to padded batches."""
