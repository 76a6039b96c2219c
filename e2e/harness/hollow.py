"""Hollows out shared libraries: the same names and versions, no code.

The only torch for Linux in the package index is linked with CUDA's libraries, and loading it needs every name of theirs
(1.7 GB of machine code) although work on a CPU calls none. A hollow library satisfies the loader with a few kilobytes.
Each of its functions answers 1, which every CUDA library reads as an error.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
# e_machine -> "return 1": x86-64 (mov eax, 1; ret) and AArch64 (mov w0, #1; ret)
ANSWER_ONE = {62: bytes.fromhex("b801000000c3"), 183: bytes.fromhex("20008052c0035fd6")}

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_ENTRY = struct.Struct("<qQ")

# Section types, and the entry of the dynamic table that points to each.
_DYNAMIC, _DYNSYM = 6, 11
_TABLES = {5: 4, 0x6FFFFFF6: 0x6FFFFEF5, _DYNSYM: 6, 0x6FFFFFFF: 0x6FFFFFF0, 0x6FFFFFFD: 0x6FFFFFFC}
_STRTAB, _STRSZ, _SYMENT, _SONAME, _VERDEFNUM = 5, 10, 11, 14, 0x6FFFFFFD
_LOAD, _DYNAMIC_SEGMENT, _STACK = 1, 2, 0x6474E551
_READ_EXECUTE, _READ_WRITE = 5, 6
_FUNCTION = 2


@dataclass(frozen=True)
class _Section:
    kind: int
    link: int
    count: int  # sh_info: of a version section the number of its entries
    data: bytes


def can_hollow(path: Path) -> bool:
    """True for a 64-bit shared library of a machine that we know."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
    return start[:6] == b"\x7fELF\x02\x01" and _HEADER.unpack(start)[2] in ANSWER_ONE


def hollow(library: bytes) -> bytes:
    """A library with the dynamic symbols, versions and name of another, whose functions all answer 1."""
    machine = _HEADER.unpack_from(library)[2]
    sections = list(_sections(library))
    names = next(sections[each.link].data for each in sections if each.kind == _DYNSYM)
    dynamic = next(each.data for each in sections if each.kind == _DYNAMIC)
    offset = PAGE  # the first page is for the headers and the code
    code = _HEADER.size + 4 * _SEGMENT.size
    body, table = bytearray(), [(_STRTAB, offset), (_STRSZ, len(names)), (_SYMENT, _SYMBOL.size)]
    body += names
    for each in sections:
        if each.kind in _TABLES:
            body += bytes(-len(body) % 16)
            table.append((_TABLES[each.kind], offset + len(body)))
            body += _answering(each.data, code) if each.kind == _DYNSYM else each.data
            if each.kind == 0x6FFFFFFD:
                table.append((_VERDEFNUM, each.count))
    table += [(tag, value) for tag, value in _ENTRY.iter_unpack(dynamic) if tag == _SONAME]
    body += bytes(-len(body) % PAGE)
    start = _headers(machine, code, loaded=offset + len(body), dynamic=_ENTRY.size * (len(table) + 1))
    entries = b"".join(_ENTRY.pack(tag, value) for tag, value in [*table, (0, 0)])
    return start.ljust(PAGE, b"\0") + bytes(body) + entries


def _headers(machine: int, code: int, *, loaded: int, dynamic: int) -> bytes:
    """The ELF header, the segments (all that is read and run; the dynamic table; a plain stack), and the code."""
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _HEADER.pack(identity, 3, machine, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, 4, 0, 0, 0)
    segments = [
        (_LOAD, _READ_EXECUTE, 0, 0, 0, loaded, loaded, PAGE),
        (_LOAD, _READ_WRITE, loaded, loaded, loaded, dynamic, dynamic, PAGE),
        (_DYNAMIC_SEGMENT, _READ_WRITE, loaded, loaded, loaded, dynamic, dynamic, 8),
        (_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16),
    ]
    packed = header + b"".join(_SEGMENT.pack(*segment) for segment in segments)
    assert len(packed) == code
    return packed + ANSWER_ONE[machine]


def _sections(library: bytes) -> Iterator[_Section]:
    fields = _HEADER.unpack_from(library)
    first, size, count = fields[6], fields[11], fields[12]
    for index in range(count):
        _, kind, _, _, offset, length, link, info, _, _ = _SECTION.unpack_from(library, first + index * size)
        wanted = kind in _TABLES or kind in {3, _DYNAMIC}
        yield _Section(kind, link, info, library[offset : offset + length] if wanted else b"")


def _answering(symbols: bytes, code: int) -> bytes:
    """Every defined symbol becomes the one function; what is undefined stays so, as nothing refers to it."""
    return b"".join(
        _SYMBOL.pack(name, (info & 0xF0) | _FUNCTION, other, place, code, 0)
        if place
        else _SYMBOL.pack(name, info, other, place, value, size)
        for name, info, other, place, value, size in _SYMBOL.iter_unpack(symbols)
    )
