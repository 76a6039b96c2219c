"""One model on several devices, one process per device (a rank).

sharding    which part of each tensor belongs to which rank; no torch
ranks       the ranks that share a model, and what they add up
shared_memory, peer_memory   faster sums between ranks of one node: CPUs, GPUs
groups      data-parallel groups: each computes its own rows of a step
dispatch    rows to the ranks that hold their experts, where ranks have different rows
placement   where experts and copies of busy ones are; no torch
balance     the same on one rank, with what its device looks up and counts
rebalancing when the leading rank measures, and moves copies
"""
