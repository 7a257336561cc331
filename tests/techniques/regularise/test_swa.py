import torch
from torch.optim.swa_utils import AveragedModel

from danlu.techniques.regularise.swa import Swa


def test_equals_torchs_average_from_its_start_on(make_model, make_ctx):
    model, technique = make_model(), Swa(start_at=0.5, every_steps=2)
    reference, state = AveragedModel(model), technique.start(model)
    for step in range(1, 11):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * step)
        if step >= 5 and step % 2 == 0:
            reference.update_parameters(model)
        technique.after_step(make_ctx(model, technique, step=step, steps=10), state)
    assert state.num_updates == 3
    with technique.on_export(model, state):
        for name, expected in reference.module.named_parameters():
            torch.testing.assert_close(model.get_parameter(name), expected)


def test_before_its_start_the_model_is_used_as_it_is(make_model, make_ctx):
    model, technique = make_model(), Swa(start_at=0.5)
    state = technique.start(model)
    with torch.no_grad():
        model.lm_head.weight.fill_(1.0)
    technique.after_step(make_ctx(model, technique, step=1), state)
    with technique.on_export(model, state):
        assert (model.lm_head.weight == 1.0).all()
