from danlu.techniques.augment.affine import Affine


def test_changes_pictures_and_boxes_alike(check):
    check(Affine(degrees=15, scale=0.2, shear=5, shift=0.1, visible=0.0))


def test_what_comes_in_is_the_edge_or_the_mean(batch, ctx):
    for outside, value in (("edge", -2.0), ("mean", 0.0)):
        technique = Affine(degrees=0, scale=0, shift=1.0, outside=outside)
        made = technique.on_batch(batch, ctx(1), None).inputs["pixel_values"]
        corners = made[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners - value).abs().min() < 1e-4
