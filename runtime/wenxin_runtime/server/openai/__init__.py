"""The OpenAI API.

schemas        what a request may hold               parsing       bytes to a checked request
sampling       a request's knobs to SamplingParams   word_lists    words that it names, to token ids
structured     what its answer must look like        json_schema   the schemas in that
plan           what is to be generated, for either endpoint
completions    /v1/completions                       chat          /v1/chat/completions
messages       messages to a prompt                  tools         what may be called, what must be
chat_format    how the model writes in a chat        chat_writer   an answer to chat objects
choice         one sequence's tokens to a piece      answer        all choices of a request
parts          a text to reasoning, content, calls   piece         what some steps added to a choice
reasoning      thoughts told from answers            tool_calls    calls found in answers
segments       labelled text and its tokens          json_object   an object read while it is written
responses      what an answer looks like             logprobs      what logprobs look like
generate       the exchange itself: admit, stream or collect, notice a client that leaves
models         /v1/models                            tokens        /tokenize and /detokenize
"""
