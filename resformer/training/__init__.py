"""Training: typed configuration, the step, optimisers, checkpoints and the files of a run."""
