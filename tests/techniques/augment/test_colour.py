import torch

from danlu.techniques.augment.colour import Colour


def test_changes_the_values_and_leaves_the_boxes(check, batch):
    made = check(Colour(brightness=0.2, hue=0.1))
    assert all(torch.equal(one, two) for one, two in zip(made.labels["boxes"], batch.labels["boxes"], strict=True))
    assert torch.equal(made.targets_B, batch.targets_B)


def test_stays_within_what_a_picture_can_show(batch, ctx):
    made = Colour(brightness=1.0, contrast=1.0, saturation=1.0).on_batch(batch, ctx(0), None).inputs["pixel_values"]
    shown = made * 0.2 + torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    assert shown.min() > -1e-5
    assert shown.max() < 1 + 1e-5


def test_grey_pictures_of_one_channel_are_left(batch, ctx):
    grey = batch.replace(inputs={"pixel_values": batch.inputs["pixel_values"][:, :1]})
    assert Colour().on_batch(grey, ctx(0), None) is grey
