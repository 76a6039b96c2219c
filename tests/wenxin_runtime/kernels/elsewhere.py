"""Experts of which some are on other ranks: the parts together say what all of them say."""

import torch

from wenxin_runtime.kernels import Kernels


def parts_and_whole(kernels: Kernels, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix with seven experts in parts of three and four, and with all in one; rows 0 and 1 have one part each."""
    gate_up = [torch.randn(2 * 24, 32, device=device) / 32**0.5 for _ in range(7)]
    down = [torch.randn(32, 24, device=device) / 24**0.5 for _ in range(7)]
    x, shares = torch.randn(9, 32, device=device), torch.rand(9, 3, device=device)
    chosen = torch.rand(9, 7).topk(3).indices.to(device)
    chosen[0], chosen[1] = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
    first = kernels.experts(gate_up[:3], down[:3])(x, chosen, shares)
    second = kernels.experts(gate_up[3:], down[3:])(x, chosen - 3, shares)
    assert first[1].eq(0).all()
    assert second[0].eq(0).all()
    return first + second, kernels.experts(gate_up, down)(x, chosen, shares)


def replaced_and_made(kernels: Kernels, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix with experts of which two came later, from the host's memory, and with the same ones made at once."""
    gate_up = [torch.randn(2 * 24, 32) / 32**0.5 for _ in range(7)]
    down = [torch.randn(32, 24) / 24**0.5 for _ in range(7)]
    x, shares = torch.randn(9, 32, device=device), torch.rand(9, 3, device=device)
    chosen = torch.rand(9, 5).topk(3).indices.to(device)
    there = ([weight.to(device) for weight in weights[:5]] for weights in (gate_up, down))
    experts = kernels.experts(*there)
    experts.replace(1, gate_up[5], down[5])
    experts.replace(4, gate_up[6], down[6])
    made = ([weights[i].to(device) for i in (0, 5, 2, 3, 6)] for weights in (gate_up, down))
    return experts(x, chosen, shares), kernels.experts(*made)(x, chosen, shares)
