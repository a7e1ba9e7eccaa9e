"""Tokens on disk, seen as non-overlapping sequences with their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset


class PackedTokens(Dataset[dict[str, torch.Tensor]]):
    """Sequence i reads tokens [i*T, i*T+T) and predicts tokens [i*T+1, i*T+T]; an incomplete tail is dropped.

    Items are `input_ids` and `shift_labels` (already shifted by one), int64 [T], and with `document_mask`
    `position_ids` [T] that restart at 0 after every end of text.
    """

    def __init__(
        self, path: Path, dtype: str, sequence_length: int, end_of_text: int, document_mask: bool = False
    ) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.sequence_length = sequence_length
        self.end_of_text = end_of_text
        self.document_mask = document_mask
        self.num_tokens = path.stat().st_size // self.dtype.itemsize
        self._tokens: np.ndarray | None = None

    @property
    def tokens(self) -> np.ndarray:
        """All tokens, memory-mapped, read-only."""
        if self._tokens is None:
            self._tokens = np.memmap(self.path, self.dtype, mode="r")
        return self._tokens

    def __len__(self) -> int:
        return max(self.num_tokens - 1, 0) // self.sequence_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        start = int(index) * self.sequence_length
        window = torch.from_numpy(self.tokens[start : start + self.sequence_length + 1].astype(np.int64))
        item = {"input_ids": window[:-1], "shift_labels": window[1:]}
        if self.document_mask:
            places = torch.arange(self.sequence_length)
            starts = torch.zeros_like(places)
            starts[1:] = torch.where(window[:-2] == self.end_of_text, places[1:], 0)
            item["position_ids"] = places - starts.cummax(0).values
        return item

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map carries its whole content to each loader process.
        return {**self.__dict__, "_tokens": None}
