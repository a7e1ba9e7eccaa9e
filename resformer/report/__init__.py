"""Figures and pages: read from the files of runs and sweeps, never from a model."""
