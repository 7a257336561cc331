import torch

from danlu.techniques.augment.mosaic import Mosaic


def test_joins_pictures_with_their_boxes(check, batch):
    made = check(Mosaic(p=0.7, visible=0.0), alone=False)
    for at, classes in enumerate(made.labels["classes"]):
        if torch.equal(made.inputs["pixel_values"][at], batch.inputs["pixel_values"][at]):
            assert torch.equal(classes, batch.labels["classes"][at])
    assert any((classes != at).any() for at, classes in enumerate(made.labels["classes"]))


def test_without_boxes_there_is_nothing_to_join(batch, ctx):
    plain = batch.replace(labels={"classes": torch.zeros(12, dtype=torch.int64)})
    assert Mosaic(p=1.0).on_batch(plain, ctx(0), None) is plain
