import pytest
import torch

from wenxin_runtime.kernels.gpu.sampling import draw


def sorted_draw(logits, points, min_p, top_p):
    """What `engine.sampler` does: sort, cut, and invert the cumulative distribution."""
    best, order = logits.sort(dim=-1, descending=True, stable=True)
    kept = best >= best[:, :1] + min_p[:, None].log()
    mass = best.masked_fill(~kept, -torch.inf).softmax(dim=-1, dtype=torch.float64)
    kept &= (mass.cumsum(dim=-1) - mass < top_p[:, None]) | (torch.arange(best.shape[1], device=best.device) == 0)
    cumulative = best.masked_fill(~kept, -torch.inf).softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    place = torch.searchsorted(cumulative, points[:, None].double() * cumulative[:, -1:], right=True)
    return order.gather(1, place.clamp(max=best.shape[1] - 1))[:, 0]


@pytest.mark.parametrize("vocabulary", [7, 1100])
@pytest.mark.parametrize(("min_p", "top_p"), [(0.0, 0.8), (0.05, 1.0), (0.02, 0.9), (0.0, 0.0), (1.0, 1.0)])
def test_draws_what_a_sorted_vocabulary_gives(vocabulary, min_p, top_p, device):
    rows = 3
    logits = torch.randn(rows, vocabulary, device=device) * 2
    points = torch.rand(rows, device=device)
    filters = [torch.full((rows,), value, device=device) for value in (min_p, top_p)]
    assert torch.equal(draw(logits, points, *filters), sorted_draw(logits, points, *filters))


def test_each_row_has_filters_and_a_point_of_its_own(device):
    logits = torch.randn(1, 300, device=device).expand(6, -1).contiguous()
    points = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.999, 0.7], device=device)
    min_p = torch.tensor([0.0, 0.1, 0.0, 0.3, 0.0, 0.0], device=device)
    top_p = torch.tensor([0.5, 1.0, 0.9, 0.7, 0.2, 0.99], device=device)
    got = draw(logits, points, min_p, top_p)
    assert torch.equal(got, sorted_draw(logits, points, min_p, top_p))
    assert got[0] == logits[0].argmax()
    assert len(set(got.tolist())) > 3


def test_equal_logits_are_drawn_in_their_order_and_cut_in_their_order(device):
    logits = torch.full((4, 10), -1.0, device=device)
    logits[:, 3:7] = 2.0
    points = torch.tensor([0.0, 0.3, 0.6, 0.99], device=device)
    none, most = torch.zeros(4, device=device), torch.full((4,), 0.4, device=device)
    whole = torch.full((4,), 0.9, device=device)
    assert draw(logits, points, none, whole).tolist() == [3, 4, 5, 6]
    assert set(draw(logits, points, none, most).tolist()) == {3, 4}


def test_banned_tokens_are_never_drawn(device):
    logits = torch.zeros(5, 40, device=device)
    logits[:, 1:] = -torch.inf
    points = torch.linspace(0, 0.9999, 5, device=device)
    full = torch.full((5,), 0.95, device=device)
    assert draw(logits, points, torch.zeros(5, device=device), full).eq(0).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
def test_a_row_that_is_not_finite_gets_some_token_and_harms_no_other(device):
    logits = torch.randn(4, 50, device=device)
    points, half = torch.rand(4, device=device), torch.full((4,), 0.5, device=device)
    none = torch.zeros(4, device=device)
    wanted = draw(logits, points, none, half)
    logits[1] = float("nan")
    logits[2, 7] = float("inf")
    logits[3] = -torch.inf
    got = draw(logits, points, none, half)
    assert got[0] == wanted[0]
    assert ((got >= 0) & (got < 50)).all()
