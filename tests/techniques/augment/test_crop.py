from danlu.techniques.augment.crop import Crop


def test_changes_pictures_and_boxes_alike(check):
    check(Crop(scale=0.5, visible=0.0))


def test_boxes_that_are_cut_away_are_dropped_with_their_labels(batch, ctx):
    strict, lenient = (Crop(scale=0.2, visible=share).on_batch(batch, ctx(1), None) for share in (1.0, 0.0))
    assert strict.num_targets < lenient.num_targets <= batch.num_targets
    for row, (boxes, classes) in enumerate(zip(strict.labels["boxes"], strict.labels["classes"], strict=True)):
        assert len(boxes) == len(classes)
        assert (classes == row).all()


def test_a_muted_row_stays_muted(batch, ctx):
    muted = Crop(scale=0.5).on_batch(batch.muted(), ctx(1), None)
    assert muted.num_targets == 0
