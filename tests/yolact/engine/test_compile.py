"""train.compile: the model is one graph."""

import pytest
import torch

from yolact.testing import tiny


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_model_is_one_graph_and_computes_the_same(training):
    """The 'eager' backend runs the captured graph as it is: graph breaks and values frozen into it
    are found without a compiler."""
    cfg = tiny.config(model={"max_size": 256, "dcn_layers": (0, 0, 1, 1), "mask_iou_net": True})
    model, _ = tiny.model_and_criterion(cfg)
    model.train(training)
    for name, parameter in model.named_parameters():
        # zero at the start, where a deformable convolution is a plain one
        if "conv_offset_mask" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for seed in range(2):
        images = torch.randn((1, 3, 256, 256), generator=torch.Generator().manual_seed(seed))
        found, expected = vars(compiled(images)), vars(model(images))
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    found[name], value, msg=lambda text, name=name: f"{name}: {text}"
                )
            else:
                assert found[name] == value
