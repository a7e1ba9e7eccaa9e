"""What textbooks and papers say of residual connections, each checked by one command."""

from . import initial, trained

CLAIMS = {claim.name: claim for claim in (*initial.CLAIMS, *trained.CLAIMS)}
"""All claims by name, those that need no training first."""

__all__ = ["CLAIMS"]
