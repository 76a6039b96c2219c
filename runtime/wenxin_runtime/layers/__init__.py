"""The pieces that models are made of. Each is a plain torch reference that runs anywhere; kernels come beside it."""
