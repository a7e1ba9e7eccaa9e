"""What the residual stream does: the recorder of a run, spikes and end states, probes on any checkpoint.

Imports the model and nothing else of ours. Nothing here stands in the model: everything is measured through the
connections' ``step`` and the branches they call.
"""
