"""What pictures' tones may undergo, for a whole batch at once; each equals PIL's operation of the same name on bytes.

Pictures are (B, C, H, W) of whole numbers 0 ... 255 in fp32. What happens to a row is told by tensors (B,).
"""

import torch
from torch import Tensor
from torch.nn import functional


def solarize(images_BCHW: Tensor, thresholds_B: Tensor) -> Tensor:
    """x ← 255 − x where x ≥ threshold, as PIL.ImageOps.solarize."""
    return torch.where(images_BCHW < thresholds_B.view(-1, 1, 1, 1), images_BCHW, 255 - images_BCHW)


def posterize(images_BCHW: Tensor, bits_B: Tensor) -> Tensor:
    """Keeps the highest `bits` of each byte, as PIL.ImageOps.posterize."""
    step_B111 = torch.exp2(8 - bits_B).view(-1, 1, 1, 1)
    return torch.floor(images_BCHW / step_B111) * step_B111


def autocontrast(images_BCHW: Tensor) -> Tensor:
    """Each channel stretched so that it reaches from 0 to 255, as PIL.ImageOps.autocontrast; a plain one stays."""
    low_BC11, high_BC11 = images_BCHW.amin((2, 3), keepdim=True), images_BCHW.amax((2, 3), keepdim=True)
    scale_BC11 = 255 / (high_BC11 - low_BC11).clamp(min=1)
    stretched_BCHW = torch.floor((images_BCHW - low_BC11) * scale_BC11 + 1e-3).clamp(0, 255)
    return torch.where(high_BC11 > low_BC11, stretched_BCHW, images_BCHW)


def equalize(images_BCHW: Tensor) -> Tensor:
    """Each channel's histogram made flat, as PIL.ImageOps.equalize."""
    flat_RN = images_BCHW.reshape(-1, images_BCHW.shape[2] * images_BCHW.shape[3]).long()
    counts_RV = torch.zeros(len(flat_RN), 256, dtype=torch.long, device=flat_RN.device)
    counts_RV.scatter_add_(1, flat_RN, torch.ones_like(flat_RN))
    last_R1 = counts_RV.gather(1, 255 - (counts_RV.flip(1) > 0).long().argmax(1, keepdim=True))
    steps_R1 = (flat_RN.shape[1] - last_R1) // 255
    before_RV = counts_RV.cumsum(1) - counts_RV
    table_RV = ((before_RV + steps_R1 // 2) // steps_R1.clamp(min=1)).clamp(0, 255)
    table_RV = torch.where(steps_R1 > 0, table_RV, torch.arange(256, device=flat_RN.device))
    return table_RV.gather(1, flat_RN).to(images_BCHW.dtype).view_as(images_BCHW)


def sharpness(images_BCHW: Tensor, factors_B: Tensor) -> Tensor:
    """x ← s + f (x − s), s the picture smoothed by [[1 1 1][1 5 1][1 1 1]] / 13 inside its edge, as PIL's Sharpness."""
    channels = images_BCHW.shape[1]
    kernel_33 = images_BCHW.new_ones(3, 3)
    kernel_33[1, 1] = 5
    inside = functional.conv2d(images_BCHW, (kernel_33 / 13).expand(channels, 1, 3, 3), groups=channels)
    smooth_BCHW = images_BCHW.clone()
    smooth_BCHW[:, :, 1:-1, 1:-1] = torch.floor(inside + 0.5)
    return torch.floor((smooth_BCHW + factors_B.view(-1, 1, 1, 1) * (images_BCHW - smooth_BCHW)).clamp(0, 255))
