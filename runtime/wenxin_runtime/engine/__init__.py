"""The engine process: requests in, tokens out. One step is schedule, launch, land, sample.

process     the process: sockets, idle waiting, death with the parent
startup     checkpoint and device -> a warm Engine
engine      Engine.step
admission   what the server submits -> requests                     no torch
request     one sequence and where it stands                        no torch
constraint  what a sequence is bound to, as a mask: the seam        no torch
constraints grammars, word lists, thinking: what is behind it       no torch
compiling   requests whose grammar is being compiled                no torch
scheduler   which tokens of which requests are computed next        no torch
kv_blocks   who owns which block of the KV cache, prefix reuse      no torch
batch       a plan -> flat tensors
runner      flat tensors -> hidden states and logits
shaping     penalties, bias, bans, constraints on the logits
sampler     logits -> tokens and logprobs, on the device
flight      tokens on their way to the host
transfer    to the device and back without waiting
machine     cores and memory of this process                        no torch
kv_cache    how large the KV cache may be                           no torch
"""
