import torch

# Of the greatest magnitude: sums in another order, and for bfloat16 a last bit that falls the other way.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}


def close(got, wanted, tolerance=None):
    assert got.shape == wanted.shape
    scale = wanted.double().abs().max().clamp(min=1e-6)
    far = float((got.double() - wanted.double()).abs().max() / scale)
    assert far <= (tolerance or TOLERANCE[got.dtype]), f"{far} of the greatest magnitude apart"
