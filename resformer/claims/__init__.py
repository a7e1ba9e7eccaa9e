"""What textbooks and papers say of residual connections, each checked by one command."""

from . import initial, trained_depth, trained_inside, trained_rates

CLAIMS = {
    claim.name: claim for room in (initial, trained_depth, trained_rates, trained_inside) for claim in room.CLAIMS
}
"""All claims by name, those that need no training first."""

__all__ = ["CLAIMS"]
