import torch

from yolact.heads import MaskIoUNet


def closed_net(relu: str) -> MaskIoUNet:
    """A net whose outputs are all below zero before the last ReLU."""
    torch.manual_seed(0)
    net = MaskIoUNet(1, relu=relu)
    with torch.no_grad():
        net.maskiou_net[-1].bias.fill_(-10)
    return net


def test_an_open_mask_iou_net_learns_again_after_it_has_closed():
    masks = torch.rand(4, 1, 64, 64)
    for relu, learns in (("published", False), ("open", True)):
        net = closed_net(relu)
        iou = net(masks)
        assert torch.equal(iou, torch.zeros(4, 1))
        torch.nn.functional.smooth_l1_loss(iou, torch.full_like(iou, 0.7)).backward()
        slope = net.maskiou_net[-1].bias.grad
        assert (slope < 0).item() == learns  # a step of descent raises the output


def test_both_mask_iou_nets_give_the_same_values():
    masks = torch.rand(4, 1, 70, 70)
    torch.manual_seed(1)
    published, opened = MaskIoUNet(80), MaskIoUNet(80, relu="open")
    opened.load_state_dict(published.state_dict())
    values = published(masks)
    assert torch.equal(values, opened(masks))
    assert (values == 0).any() and (values > 0).any()
