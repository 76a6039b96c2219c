"""One model on several devices, one process per device (a rank).

sharding    which part of each tensor belongs to which rank; no torch
team        the ranks as the leader sees them, from the first call to the last word
roll_call   how they find each other and agree; identity   what each says of itself
pulse       that one is gone, or hangs, is known within seconds; wire   what they say
follower    the process of a following rank; children   those of one machine
leader, orders   what is computed together, and how the followers hear of it
interface   which network they meet on
ranks       the ranks that share a model, and what they add up
shared_memory, peer_memory   faster sums between ranks of one node: CPUs, GPUs
groups      data-parallel groups: each computes its own rows of a step
dispatch    rows to the ranks that hold their experts, where ranks have different rows
placement   where experts and copies of busy ones are; no torch
balance     the same on one rank, with what its device looks up and counts
rebalancing when the leading rank measures, and moves copies
"""
