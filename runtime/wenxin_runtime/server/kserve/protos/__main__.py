"""Write or check the code that is generated from the .proto files: python -m wenxin_runtime.server.kserve.protos."""

import argparse
import sys
import tempfile
import textwrap
from pathlib import Path

from google.protobuf import descriptor_pb2

_FOLDER = Path(__file__).parent
_HEAD = '"""Generated from {name}.proto by `make protos`; see the package."""\n\n'
_MODULE = """from wenxin_runtime.server.kserve.protos import messages_of

globals().update(
    messages_of(
{literal}
    )
)
"""


def main() -> int:
    """Write what is out of date, or say so."""
    parser = argparse.ArgumentParser(description="generate the messages' code from the .proto files")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in generated().items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path} is out of date: run `make protos`\n")
        else:
            path.write_text(generated()[path])
    return 1 if check and stale else 0


def generated() -> dict[Path, str]:
    """Compile every .proto file; by path what should stand there."""
    found: dict[Path, str] = {}
    for proto in sorted(_FOLDER.glob("*.proto")):
        serialized, types = _compile(proto)
        head = _HEAD.format(name=proto.stem)
        module = _MODULE.format(literal=_literal(serialized))
        found[proto.with_name(f"{proto.stem}_pb2.py")] = head + module
        found[proto.with_name(f"{proto.stem}_pb2.pyi")] = head + types
    return found


def _compile(proto: Path) -> tuple[bytes, str]:
    """Return the file's descriptor and the types of its messages."""
    from grpc_tools import protoc  # noqa: PLC0415 - only whoever changes a .proto file needs the compiler

    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors"
        outputs = [f"--descriptor_set_out={descriptors}", f"--pyi_out={scratch}"]
        if protoc.main(["protoc", f"--proto_path={proto.parent}", *outputs, proto.name]):
            raise SystemExit(1)
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
        return file.SerializeToString(deterministic=True), (Path(scratch) / f"{proto.stem}_pb2.pyi").read_text()


def _literal(serialized: bytes) -> str:
    """Spell bytes as a literal of several short lines."""
    width = 48
    lines = [repr(serialized[begin : begin + width]) for begin in range(0, len(serialized), width)]
    return textwrap.indent("\n".join(lines), " " * 8)


if __name__ == "__main__":
    sys.exit(main())
