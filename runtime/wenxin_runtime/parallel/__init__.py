"""One model on several devices, one process per device (a rank).

sharding    which part of each tensor belongs to which rank; no torch
ranks       the ranks that share a model, and what they add up
groups      data-parallel groups: each computes its own rows of a step
"""
