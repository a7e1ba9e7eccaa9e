"""The claims that need training: each is a sweep."""

from .claim import Claim

CLAIMS: tuple[Claim, ...] = ()
