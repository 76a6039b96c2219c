"""The engine process: requests in, tokens out. One step is schedule, launch, land, sample.

process     the process: sockets, idle waiting, death with the parent
startup     checkpoint and device -> a warm Engine
loaded      a rank's part of the model, and the memory beside it
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
graphs      decode steps as CUDA graphs
seen        how often each token stands in a sequence               no torch
shaping     penalties, bias, bans, constraints on the logits
sampler     logits -> tokens and logprobs, on the device
flight      tokens on their way to the host
transfer    to the device and back without waiting
stopwatch   where the time of a step goes                           no torch
inspection  where every sequence stands, for whoever asks           no torch
profiling   torch's profiler over some steps
machine     cores and memory of this process                        no torch
kv_cache    how large the KV cache may be                           no torch
"""
