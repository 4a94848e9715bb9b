"""Images on disk: found, decoded once, kept, and drawn in batches."""
