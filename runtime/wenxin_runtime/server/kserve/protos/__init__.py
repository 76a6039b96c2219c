"""The protocol's messages: `*.proto` says what they are, `*_pb2` is generated from it by `make protos`.

Each file has a pool of descriptors of its own, so that it never meets another definition of the same names in one
process: tritonclient brings the whole of Triton's. And the generated code holds nothing but the descriptors, so it
works with every release of protobuf, not only with that of the compiler.
"""

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message


def messages_of(serialized: bytes) -> dict[str, type[Message]]:
    """Make the classes of a file's messages, by name; the inner ones are their attributes.

    Args:
        serialized: Its FileDescriptorProto.
    """
    file = descriptor_pool.DescriptorPool().AddSerializedFile(serialized)
    return {name: message_factory.GetMessageClass(found) for name, found in file.message_types_by_name.items()}
