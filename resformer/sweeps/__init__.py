"""Ablation sweeps: a definition, its trials, who runs them, and the statistics of what they found."""
