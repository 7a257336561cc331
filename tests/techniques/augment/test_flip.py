import torch

from danlu.techniques.augment.flip import Flip


def test_changes_pictures_and_boxes_alike(check):
    check(Flip(p=0.5))


def test_mirrors_all_or_about_half(batch, ctx):
    every = Flip(p=1.0).on_batch(batch, ctx(0), None)
    assert torch.equal(every.inputs["pixel_values"], batch.inputs["pixel_values"].flip(3))
    ids = torch.arange(2000)
    many = batch.replace(
        inputs={"pixel_values": torch.arange(2.0).view(1, 1, 1, 2).repeat(2000, 1, 1, 1)},
        labels={},
        example_ids_B=ids,
    )
    turned = Flip(p=0.3).on_batch(many, ctx(0), None).inputs["pixel_values"][:, 0, 0, 0]
    assert 0.27 < turned.mean().item() < 0.33
