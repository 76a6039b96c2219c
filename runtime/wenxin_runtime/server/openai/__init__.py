"""The OpenAI API.

schemas        what a request may hold               parsing       bytes to a checked request
sampling       a request's knobs to SamplingParams   plan          what is to be generated, for either endpoint
chat           /v1/chat/completions                  completions   /v1/completions
choice         one sequence's tokens to text         responses     what an answer looks like
generate       the exchange itself: admit, stream or collect, notice a client that leaves
models         /v1/models
"""
