"""The engine process: requests in, tokens out. One step is schedule, run, sample, commit, emit.

process     the process: sockets, idle waiting, death with the parent
startup     checkpoint and device -> a warm Engine
engine      Engine.step
request     one sequence and where it stands                        no torch
scheduler   which tokens of which requests are computed next        no torch
kv_blocks   who owns which block of the KV cache, prefix reuse      no torch
batch       a plan -> flat tensors
runner      flat tensors -> hidden states and logits
sampler     logits -> tokens and logprobs
memory      how large the KV cache may be
"""
