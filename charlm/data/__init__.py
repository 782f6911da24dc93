"""Text to ids to batches, in numpy."""
