"""Training: views, streams, the loop and its checkpoints; a run folder is what it reads and writes."""
