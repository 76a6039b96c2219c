"""The HTTP process: parse, tokenise, admit, stream. It imports no torch.

serve            the process: sockets, signals, drain, exit status
app              the routes
node             the process on a further machine of a group, which serves no requests
service          what every route may ask: the model, the engine, may I accept?
served_model     what the server reads from the checkpoint
engine_client    admission and routing          engine_process   the child process and its sockets
watchdog         is the engine stuck?           questions        what it is asked between two steps
generation       the sequences of one request
openai/          the OpenAI API                 probes           /health, /load, /metrics, /version
kserve/          the KServe v2 protocol         answers/         answers to repeated prompts, from Redis
answering        from a plan to its generation  statistics       what was asked, in Triton's categories
http             error bodies, body limit, request ids
exchange         one request's line in the log  tracing, spans   its spans, where tracing is asked for
debug            /debug, where it is switched on
"""
