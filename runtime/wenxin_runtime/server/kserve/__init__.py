"""The KServe v2 protocol with Triton's extensions, as the `tritonclient` package speaks it, over HTTP and gRPC.

tensors        datatypes, and the binary tensor extension
signature      which tensors and parameters a request may hold, and what they ask for
inference      a request to a plan, a generation to responses
description    metadata, configuration, readiness, repository index
json_format    requests and responses as JSON, with binary tensors behind it, and as /generate has them
http           the routes of /v2                     endpoints     those of them that generate
grpc_server    whether there is a port for gRPC      grpc_listener its start and its end
grpc_service   the methods                           grpc_stream   ModelStreamInfer
grpc_calls     one request: record and status        grpc_format   requests and responses as protobuf messages
protos/        the messages' definitions, and the code generated from them
"""
