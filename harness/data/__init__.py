"""From raw files to batches: found, downloaded, prepared once, read, augmented."""
