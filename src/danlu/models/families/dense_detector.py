"""Dense detector: a small one-stage detector with a ViT trunk for small data, as a family of transformers.

Convolutions bring the picture to a grid of stride 8, a ViT mixes it, and a finer grid of stride 4 joins what the ViT
saw with what the convolutions see there. Each cell of the finer grid says for every class how well the box that it
draws covers an object of that class, and how far the box's sides are from the cell's centre (Tian et al. 2019, FCOS).

Training follows Feng et al. 2021 (TOOD): an object belongs to those cells inside it that by class and box together
already fit it best, and a cell's score learns the quality of its box, so that the best boxes rank first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForObjectDetection, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from danlu.maths.boxes import centres_of, corners_of, giou, iou

_TINY = 1e-9
_MOST_PLAIN = 1024


class DenseDetectorConfig(PreTrainedConfig):
    """The sizes and the weights of the loss; see the module."""

    model_type = "dense-detector"

    def __init__(
        self,
        image_size: int = 96,
        num_channels: int = 3,
        hidden_size: int = 96,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        intermediate_size: int = 192,
        stem_sizes: Sequence[int] = (32, 64),
        head_size: int = 64,
        head_layers: int = 2,
        typical_size: float = 24.0,
        candidates: int = 13,
        class_power: float = 0.5,
        box_power: float = 4.0,
        class_weight: float = 0.3,
        box_weight: float = 2.0,
        side_weight: float = 1.0,
        nms_iou: float = 0.6,
        initializer_range: float = 0.02,
        **more: Any,
    ) -> None:
        self.image_size, self.num_channels = image_size, num_channels
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.stem_sizes, self.head_size, self.head_layers = tuple(stem_sizes), head_size, head_layers
        self.typical_size = typical_size
        self.candidates, self.class_power, self.box_power = candidates, class_power, box_power
        self.class_weight, self.box_weight, self.side_weight = class_weight, box_weight, side_weight
        self.nms_iou, self.initializer_range = nms_iou, initializer_range
        super().__init__(**more)


def _conv(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(8, outer), nn.SiLU()
    )


def _attend(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """Attention without a mask. Up to 1,024 cells the plain products are made: with narrow heads torch's own fused
    way takes several times as long on a CPU."""
    if q_BHTE.shape[2] > _MOST_PLAIN:
        return functional.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)
    scores_BHTT = (q_BHTE * q_BHTE.shape[-1] ** -0.5) @ k_BHTE.transpose(-1, -2)
    return scores_BHTT.softmax(-1).to(v_BHTE.dtype) @ v_BHTE


class DenseDetectorLayer(nn.Module):
    """A ViT block, norms first."""

    def __init__(self, config: DenseDetectorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(hidden_BTD)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_BHTE = _attend(q, k, v)
        hidden_BTD = hidden_BTD + self.out(mixed_BHTE.transpose(1, 2).flatten(2))
        return hidden_BTD + self.down(functional.gelu(self.up(self.norm2(hidden_BTD))))


class DenseDetectorForObjectDetection(PreTrainedModel):
    """Gives `logits` (B, L, C) and `pred_boxes` (B, L, 4), centre, width and height as shares of the picture.

    L counts the cells of the finer grid. Scores are sigmoids. Neighbouring cells find the same object: of boxes of one
    class that overlap by more than `nms_iou` only the best should be kept.
    """

    config_class = DenseDetectorConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["DenseDetectorLayer"]
    _supports_sdpa = True

    def __init__(self, config: DenseDetectorConfig) -> None:
        super().__init__(config)
        first, second = config.stem_sizes
        width, head = config.hidden_size, config.head_size
        self.stem = nn.Sequential(_conv(config.num_channels, first, 2), _conv(first, second, 2))
        self.coarse = nn.Sequential(_conv(second, width, 2), nn.Conv2d(width, width, 1))
        self.layers = nn.ModuleList(DenseDetectorLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.lateral, self.lifted = nn.Conv2d(second, head, 1), nn.Conv2d(width, head, 1)
        self.neck = nn.Sequential(*(_conv(head, head) for _ in range(config.head_layers)))
        self.class_tower, self.box_tower = _conv(head, head), _conv(head, head)
        self.classes, self.sides = nn.Conv2d(head, int(config.num_labels or 0), 1), nn.Conv2d(head, 4, 1)
        self.loss_function = dense_detector_loss
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is getattr(self, "classes", None):
            nn.init.normal_(module.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.constant_(module.bias, -4.6)  # type: ignore[arg-type]  # a prior of 1 % (Lin et al. 2017, 3.3)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Sequence[Mapping[str, Tensor]] | None = None,
        return_dict: bool = True,
        **_more: Any,
    ) -> ModelOutput:
        """`pixel_values` (B, channels, H, W), in any size. `labels`: `boxes` and `class_labels` of each."""
        fine = self.stem(pixel_values)
        coarse = self.coarse(fine)
        rows, columns = coarse.shape[-2:]
        hidden_BTD = coarse.flatten(2).transpose(1, 2)
        hidden_BTD = hidden_BTD + _places(rows, columns, hidden_BTD)
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD)
        seen = self.norm(hidden_BTD).transpose(1, 2).unflatten(2, (rows, columns))
        lifted = functional.interpolate(self.lifted(seen), size=fine.shape[-2:], mode="bilinear")
        grid = self.neck(functional.silu(self.lateral(fine) + lifted))
        logits_BLC = self.classes(self.class_tower(grid)).flatten(2).transpose(1, 2)
        sides_BL4 = self.sides(self.box_tower(grid)).flatten(2).transpose(1, 2)
        boxes_BL4 = self._boxes(sides_BL4.float(), fine.shape[-2], fine.shape[-1], pixel_values)
        loss = None
        if labels is not None:
            grid = (fine.shape[-2], fine.shape[-1])
            loss, *_ = self.loss_function(logits_BLC, labels, logits_BLC.device, boxes_BL4, self.config, grid=grid)
        return ModelOutput(**({} if loss is None else {"loss": loss}), logits=logits_BLC, pred_boxes=boxes_BL4)

    def _boxes(self, sides_BL4: Tensor, rows: int, columns: int, pixel_values: Tensor) -> Tensor:
        """From the distances of the sides, in logarithms of half a typical object, to boxes."""
        height, width = pixel_values.shape[-2:]
        centres_L2 = _centres(rows, columns, sides_BL4) * sides_BL4.new_tensor([width, height])
        far_BL4 = self.config.typical_size / 2 * sides_BL4.clamp(max=8.0).exp()
        corners_BL4 = torch.cat([centres_L2 - far_BL4[..., :2], centres_L2 + far_BL4[..., 2:]], -1)
        return centres_of(corners_BL4 / sides_BL4.new_tensor([width, height, width, height]))


def _centres(rows: int, columns: int, like: Tensor) -> Tensor:
    """(L, 2) x and y of the cells' centres as shares of the picture."""
    y = (torch.arange(rows, device=like.device, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(columns, device=like.device, dtype=torch.float32) + 0.5) / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], 1)


def _places(rows: int, columns: int, like_BTD: Tensor) -> Tensor:
    """(T, D) sines and cosines of the place, for grids of any size (Vaswani et al. 2017, in two directions)."""
    width = like_BTD.shape[-1]
    waves_F = 1e4 ** (-torch.arange(0, width, 4, device=like_BTD.device, dtype=torch.float32) / width)
    centres_T2 = _centres(rows, columns, like_BTD) * like_BTD.new_tensor([columns, rows], dtype=torch.float32)
    angles_T2F = centres_T2[..., None] * waves_F
    return torch.cat([angles_T2F.sin(), angles_T2F.cos()], -1).flatten(1)[:, :width].to(like_BTD.dtype)


def dense_detector_loss(
    logits_BLC: Tensor,
    labels: Sequence[Mapping[str, Tensor]],
    device: torch.device,
    boxes_BL4: Tensor,
    config: DenseDetectorConfig,
    *,
    grid: tuple[int, int],
) -> tuple[Tensor, dict[str, Tensor], None]:
    """The loss over the objects of the batch, divided by their number, as transformers' detectors give it.

    L = Σ_cells w |q - p|² BCE(p, q) + Σ_objects mean over its cells of [w (1 - GIoU) + w Σ|sides| / size]. p is the
    score, q the quality of a cell's box for the object that it belongs to (0 for others): the best cell of an object
    has as q its IoU. Li et al. 2020 (quality focal loss, equation 4), Feng et al. 2021 (TOOD, equations 1 to 5).
    """
    logits_BLC, boxes_BL4 = logits_BLC.float(), boxes_BL4.float()
    truth_BN4, classes_BN, real_BN = _padded(labels, boxes_BL4)
    drawn_BL4 = corners_of(boxes_BL4)
    inside_BNL = _inside(truth_BN4, *grid) * real_BN[..., None]
    share_BNL, quality_BNL = _assigned(
        logits_BLC.detach(), drawn_BL4.detach(), truth_BN4, classes_BN, inside_BNL, config
    )
    index_BNL = classes_BN[..., None].expand_as(quality_BNL)
    targets_BCL = torch.zeros_like(logits_BLC.transpose(1, 2)).scatter_reduce(1, index_BNL, quality_BNL, "amax")
    targets_BLC = targets_BCL.transpose(1, 2)
    focus_BLC = (targets_BLC - logits_BLC.detach().sigmoid()).square()
    cross_BLC = functional.binary_cross_entropy_with_logits(logits_BLC, targets_BLC, reduction="none")
    overlap_BNL = giou(drawn_BL4[:, None], truth_BN4[:, :, None])
    sides_BNL = (drawn_BL4[:, None] - truth_BN4[:, :, None]).abs().sum(-1)
    size_BN1 = (truth_BN4[..., 2:] - truth_BN4[..., :2]).mean(-1, keepdim=True).clamp(min=_TINY)
    terms = {
        "loss_class": config.class_weight * (focus_BLC * cross_BLC).sum(),
        "loss_giou": config.box_weight * (share_BNL * (1 - overlap_BNL)).sum(),
        "loss_sides": config.side_weight * (share_BNL * sides_BNL / size_BN1).sum(),
    }
    number = max(int(real_BN.sum()), 1)
    terms = {name: term / number for name, term in terms.items()}
    return torch.stack(list(terms.values())).sum(), terms, None


def _padded(labels: Sequence[Mapping[str, Tensor]], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (B, N, 4), classes (B, N) and which of them are real (B, N)."""
    most = max(len(entry["boxes"]) for entry in labels)
    truth_BN4 = like.new_zeros(len(labels), most, 4)
    classes_BN = torch.zeros(len(labels), most, dtype=torch.int64, device=like.device)
    real_BN = torch.zeros(len(labels), most, dtype=torch.bool, device=like.device)
    for at, entry in enumerate(labels):
        number = len(entry["boxes"])
        truth_BN4[at, :number] = corners_of(entry["boxes"].to(like))
        classes_BN[at, :number] = entry["class_labels"]
        real_BN[at, :number] = True
    return truth_BN4, classes_BN, real_BN


@torch.no_grad()
def _assigned(
    logits_BLC: Tensor,
    drawn_BL4: Tensor,
    truth_BN4: Tensor,
    classes_BN: Tensor,
    inside_BNL: Tensor,
    config: DenseDetectorConfig,
) -> tuple[Tensor, Tensor]:
    """For each object the shares of its cells (they sum to 1) and their qualities, both (B, N, L), 0 for the others."""
    overlap_BNL = iou(drawn_BL4[:, None], truth_BN4[:, :, None])
    if truth_BN4.shape[1] == 0:
        return overlap_BNL, overlap_BNL
    scores_BNL = logits_BLC.sigmoid().transpose(1, 2).gather(1, classes_BN[..., None].expand_as(overlap_BNL))
    fit_BNL = scores_BNL**config.class_power * overlap_BNL**config.box_power + _TINY
    fit_BNL = fit_BNL * inside_BNL
    best = fit_BNL.topk(min(config.candidates, fit_BNL.shape[-1]), dim=-1)
    chosen_BNL = torch.zeros_like(fit_BNL).scatter(-1, best.indices, (best.values > 0).to(fit_BNL.dtype))
    owner_BL = (chosen_BNL * (overlap_BNL + _TINY)).argmax(1)
    chosen_BNL = chosen_BNL * functional.one_hot(owner_BL, chosen_BNL.shape[1]).transpose(1, 2)
    fit_BNL = fit_BNL * chosen_BNL
    most_BN1 = fit_BNL.amax(-1, keepdim=True).clamp(min=_TINY)
    quality_BNL = fit_BNL / most_BN1 * (overlap_BNL * chosen_BNL).amax(-1, keepdim=True)
    return chosen_BNL / chosen_BNL.sum(-1, keepdim=True).clamp(min=1), quality_BNL


def _inside(truth_BN4: Tensor, rows: int, columns: int) -> Tensor:
    """Which cells' centres lie inside each box; of a box between the centres, the nearest; (B, N, L) of 0 and 1."""
    centres_L2 = _centres(rows, columns, truth_BN4)
    from_sides = torch.cat([centres_L2 - truth_BN4[:, :, None, :2], truth_BN4[:, :, None, 2:] - centres_L2], -1)
    inside_BNL = from_sides.amin(-1) > 0
    middle_BN2 = (truth_BN4[..., :2] + truth_BN4[..., 2:]) / 2
    nearest_BN = (centres_L2 - middle_BN2[:, :, None]).square().sum(-1).argmin(-1)
    return (inside_BNL | functional.one_hot(nearest_BN, rows * columns).bool()).to(truth_BN4.dtype)


AutoConfig.register(DenseDetectorConfig.model_type, DenseDetectorConfig, exist_ok=True)
AutoModelForObjectDetection.register(DenseDetectorConfig, DenseDetectorForObjectDetection, exist_ok=True)
