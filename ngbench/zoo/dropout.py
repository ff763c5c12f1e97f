"""Dropout masks that depend only on a network's own keys, so that a network drops the same units alone and in a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Noise:
    """What one dropout of a stack drops, for those who draw its masks themselves; see `StackedDropout`.

    Args:
        thresholds: The quantiles, int16 ``[networks, 1]``.
        scales: Of the units that stay, ``[networks, 1]``.
        keys: int32 ``[networks, steps]``.
        step: Which of the steps it is, int64 ``[1]``.
    """

    thresholds: torch.Tensor
    scales: torch.Tensor
    keys: torch.Tensor
    step: torch.Tensor


class StackedDropout:
    """Masks for a stack of networks, each with its own rate.

    Bit 16 k + b of the mask's random stream is bit b of half k of ``mix(position + key)``, mix being the finaliser of
    MurmurHash3 (Appleby 2008); a unit is dropped where its 16 bits, as a signed number, lie under the rate's quantile.

    Args:
        rates: Share of units dropped, of each network.
        keys: Random int32 ``[networks, steps, dropouts]`` on the stack's device.
        dtype: Of the activations.
    """

    def __init__(self, rates: Sequence[float], keys: torch.Tensor, *, dtype: torch.dtype):
        thresholds = [round(rate * 65536) - 32768 for rate in rates]
        self._thresholds = torch.tensor(thresholds, dtype=torch.int16, device=keys.device).unsqueeze(-1)
        self._scales = torch.tensor([1 / (1 - rate) for rate in rates], dtype=dtype, device=keys.device).unsqueeze(-1)
        self._keys = keys
        self._drops = max(rates) > 0
        self.step = torch.zeros(1, dtype=torch.int64, device=keys.device)
        """How many steps the networks have taken."""

    def noise(self, number: int) -> Noise | None:
        """That of dropout `number`, for all networks; None where nothing is dropped."""
        return Noise(self._thresholds, self._scales, self._keys[:, :, number], self.step) if self._drops else None

    def __call__(self, hidden: torch.Tensor, number: int) -> torch.Tensor:
        """Drops units of the active networks ``[networks, images, ...]`` at dropout `number` in step `step`; scales the rest."""
        if not self._drops:
            return hidden
        active, size = len(hidden), hidden[0].numel()
        bits = torch.arange((size + 1) // 2, dtype=torch.int32, device=hidden.device)
        bits = _mix(bits + self._keys.index_select(1, self.step)[:active, 0, number, None])
        kept = bits.view(torch.int16)[:, :size] >= self._thresholds[:active]
        return hidden * kept.to(hidden.dtype).mul_(self._scales[:active]).view(hidden.shape)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's 32-bit finaliser, in place; torch shifts int32 with its sign, so the shifted-in bits are masked away."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        bits ^= (bits >> shift).bitwise_and_((1 << (32 - shift)) - 1)
        if factor is not None:
            bits *= factor - (1 << 32)
    return bits
