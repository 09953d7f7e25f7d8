"""Which anchors take part in a loss, as index lists whose lengths the host knows: one transfer of B
counts, then no more waiting.

Only `positive_counts` brings numbers to the host. Everything else is scatter, top-k and slices of
lengths known by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from layers.losses.classification import take_each


@dataclass
class Positives:
    """Positive anchors of a batch, by image and then by anchor.

    rows    (P,) indices into the flattened (B*A) anchors
    counts  per image, on the host
    """

    rows: Tensor
    counts: list[int]

    def split(self, most: int) -> Iterator[Positives]:
        """Parts of at most `most` positives, in their order; one part at least."""
        for first in range(0, max(1, len(self.rows)), most):
            left, counts = most, []
            skip = first
            for count in self.counts:
                here = min(left, max(0, count - skip))
                skip, left = max(0, skip - count), left - here
                counts.append(here)
            yield Positives(self.rows[first : first + most], counts)


def find_positives(positive: Tensor) -> Positives:
    """positive (B,A) bool -> Positives. The one device-to-host transfer of a criterion call happens
    here."""
    counts = positive.sum(1).tolist()
    total = sum(counts)
    flat = positive.flatten()
    # where each positive goes; the others share the place behind the last
    slot = torch.where(flat, flat.cumsum(0) - 1, total)
    rows = torch.zeros(total + 1, dtype=torch.int64, device=flat.device)
    rows.scatter_(0, slot, torch.arange(flat.numel(), device=flat.device))
    return Positives(rows[:total], counts)


def draw_subset(
    positives: Positives, limit: int, *, order: Tensor | None, generator: torch.Generator | None
) -> Positives:
    """At most `limit` positives an image: those with the lowest keys.

    order: (B,A) float keys, or None to draw uniform keys from the generator; where no image has
    more, nothing is drawn."""
    rows, counts = positives.rows, positives.counts
    if max(counts, default=0) <= limit:
        return positives
    if order is None:
        device = generator.device if generator is not None else rows.device
        keys = torch.rand(rows.shape, generator=generator, device=device).to(
            rows.device, non_blocking=True
        )
    else:
        keys = order.flatten()[rows]
    # (B,most)
    padded_keys = pad_sequence(keys.split(counts), batch_first=True, padding_value=torch.inf)
    padded_rows = pad_sequence(rows.split(counts), batch_first=True)
    # Positions are sorted again, because padding stands behind every positive of its image.
    position = padded_keys.topk(limit, dim=1, largest=False).indices.sort(1).values  # (B,limit)
    kept = [min(count, limit) for count in counts]
    return Positives(take_each(padded_rows.gather(1, position), kept), kept)
