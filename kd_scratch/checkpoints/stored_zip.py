"""Where the entries of a ZIP archive lie that holds them as they are: what torch.save writes, and nothing more of ZIP.

    0                                                        directory                                 end of file
    +--------+------+-----+--------+------+-----+-----------+-----------+---+-----------+----------------+---------+
    | local  | data | sum | local  | data | sum | …         | header of | … | 64-bit    | its locator    | end     |
    | header |      |     | header |      |     |           | an entry  |   | end       |                | record  |
    +--------+------+-----+--------+------+-----+-----------+-----------+---+-----------+----------------+---------+
      30 bytes, name, filling       12, 20 or none            46 bytes, name   56 bytes   20 bytes         22 bytes

It is read from its end: the end record (and before it, where numbers need 64 bits, a second one with its locator) gives
the place of the directory, whose headers give name, size and place of each entry, and a local header before the data
gives its name again. The filling makes an entry's data begin at a multiple of 64.

What two readers could understand in two ways is refused: a comment, bytes between directory and end, an entry that lies
in another, a name that is there twice, headers that contradict each other. So is what torch.save never writes and what
makes archives dangerous: compression, encryption, links, names that lead out of the one folder that holds all.
Checksums are not compared: torch can leave them out, and the reference reader does not look at them either.
Source: PKWARE, APPNOTE.TXT (.ZIP File Format Specification), sections 4.3.7, 4.3.12, 4.3.14-16 and 4.5.3.
"""

import mmap
from struct import Struct, unpack_from
from typing import NamedTuple

LOCAL = Struct("<4s5H3I2H")
CENTRAL = Struct("<4s6H3I5H2I")
END, END_64, LOCATOR = Struct("<4s4H2IH"), Struct("<4sQ2H2I4Q"), Struct("<4sIQI")
IN_64_BITS, IN_64_BITS_SHORT = 0xFFFFFFFF, 0xFFFF  # in place of a number that stands elsewhere
MAX_ENTRIES = 100_000  # one for each tensor, and seven
SUM_FOLLOWS, UTF_8, STORED = 0x8, 0x800, 0
LINK, FOLDER = 0xA, 0x10  # as Unix has it in the highest bits, and as DOS has it in the lowest


class _Header(NamedTuple):
    """What the directory has about one entry. Those that sort first lie first in the file."""

    place: int  # of its local header
    size: int
    raw_name: bytes
    flags: int
    checksum: int


def stored_entries(mapped: mmap.mmap) -> dict[str, tuple[int, int]]:
    """(first byte, byte behind the last) of each entry's data by name, without the folder that holds them all.

    ValueError for anything but an archive as torch.save writes it.
    """
    start, stop, count = _directory(mapped)
    headers = []
    place = start
    for _ in range(count):
        header, place = _header(mapped, place, stop)
        headers.append(header)
    if place != stop:
        raise ValueError("its directory holds other entries than it counts")
    entries, folders, free = {}, set(), 0
    for header in sorted(headers):
        folder, name = _checked_name(header.raw_name)
        if name in entries:
            raise ValueError(f"entry {name!r:.200} is there twice")
        first = _data_start(mapped, header, name, start)
        if header.place < free or (free == 0 and header.place):
            raise ValueError(f"entry {name!r:.200} lies in another, or something before it")
        free = first + header.size
        if free > start:
            raise ValueError(f"entry {name!r:.200} ends at byte {free}, beyond the data")
        entries[name] = first, free
        folders.add(folder)
    if len(folders) > 1:
        raise ValueError(f"its entries lie in several folders: {', '.join(sorted(folders)):.200}")
    return entries


def _directory(mapped: mmap.mmap) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many entries it has."""
    end = len(mapped) - END.size
    if end < 0 or mapped[end : end + 4] != b"PK\5\6":
        raise ValueError("has no end of a ZIP archive (was it cut off?)")
    _, disk, first_disk, here, count, size, start, comment = END.unpack_from(mapped, end)
    if disk or first_disk or here != count or comment:
        raise ValueError("is one of several disks, or has a comment")
    locator = end - LOCATOR.size
    if locator >= END_64.size and mapped[locator : locator + 4] == b"PK\6\7":
        end = locator - END_64.size
        _, disk, place, disks = LOCATOR.unpack_from(mapped, locator)
        signature, length, _, _, disk_64, first_disk, here, *numbers = END_64.unpack_from(mapped, end)
        if (disk, place, disks, signature, length) != (0, end, 1, b"PK\6\6", 44) or disk_64 or first_disk:
            raise ValueError("its 64-bit end is not where it should be")
        short = ((count, IN_64_BITS_SHORT), (size, IN_64_BITS), (start, IN_64_BITS))
        if here != numbers[0] or any(a not in (b, all_ones) for (a, all_ones), b in zip(short, numbers, strict=True)):
            raise ValueError("its two ends contradict each other")
        count, size, start = numbers
    if count > MAX_ENTRIES:
        raise ValueError(f"has {count} entries, at most {MAX_ENTRIES} are allowed")
    if start + size != end or count * CENTRAL.size > size:
        raise ValueError(f"its directory of {size} bytes at {start} is not the one before its end at {end}")
    return start, end, count


def _header(mapped: mmap.mmap, place: int, stop: int) -> tuple[_Header, int]:
    """The entry at a place of the directory, and the place of the next one."""
    if place + CENTRAL.size > stop:
        raise ValueError("its directory is cut off")
    signature, _, _, flags, method, _, _, checksum, packed, size, n, extra, comment, disk, _, mode, local = (
        CENTRAL.unpack_from(mapped, place)
    )
    name_end = place + CENTRAL.size + n
    end = name_end + extra
    if signature != b"PK\1\2" or end > stop or comment or disk not in (0, IN_64_BITS_SHORT):
        raise ValueError("its directory is damaged")
    raw_name = mapped[name_end - n : name_end]
    if flags & ~(SUM_FOLLOWS | UTF_8):
        raise ValueError(f"entry {raw_name!r:.200} is encrypted, or of a later version of ZIP")
    if method != STORED:
        cure = "unpack the archive, and pack it without compression or folders (zip -0 -r -D)"
        raise ValueError(f"entry {raw_name!r:.200} is compressed; {cure}")
    if mode >> 28 == LINK or mode & FOLDER:
        raise ValueError(f"entry {raw_name!r:.200} is a symbolic link or a folder")
    size, packed, local = _whole([size, packed, local], mapped[name_end:end])
    if size != packed:
        raise ValueError(f"entry {raw_name!r:.200} has two sizes, {size} and {packed}")
    return _Header(local, size, raw_name, flags, checksum), end


def _whole(numbers: list[int], extra: bytes) -> list[int]:
    """An entry's numbers, those of 64 bits from its extra fields, where they stand in the same order."""
    found, place = [], 0
    while IN_64_BITS in numbers and place + 4 <= len(extra):
        kind, length = unpack_from("<2H", extra, place)
        place += 4
        if kind == 1:
            end = min(place + length, len(extra))
            found = [int.from_bytes(extra[i : i + 8], "little") for i in range(place, end - 7, 8)]
            break
        place += length
    if len(found) < numbers.count(IN_64_BITS):
        raise ValueError("an entry lacks its 64-bit numbers")
    return [found.pop(0) if number == IN_64_BITS else number for number in numbers]


def _checked_name(raw_name: bytes) -> tuple[str, str]:
    """Folder and name of an entry, whose full name leads nowhere but into that folder."""
    full = raw_name.decode("utf-8")
    folder, _, name = full.partition("/")
    if not {"", ".", ".."}.isdisjoint(full.split("/")) or not name or "\\" in full or "\0" in full:
        raise ValueError(f"entry {full!r:.200} is not a plain name in a folder")
    return folder, name


def _data_start(mapped: mmap.mmap, header: _Header, name: str, directory: int) -> int:
    """Where an entry's data begins: behind its local header, which must be that of the directory."""
    if header.place + LOCAL.size > directory:
        raise ValueError(f"entry {name!r:.200} begins at byte {header.place}, beyond the data")
    signature, _, flags, method, _, _, checksum, *sizes, n, extra = LOCAL.unpack_from(mapped, header.place)
    name_end = header.place + LOCAL.size + n
    found = signature, flags, method, mapped[name_end - n : name_end]
    unknown = {0} if flags & SUM_FOLLOWS else set()  # written before the data was
    if (
        found != (b"PK\3\4", header.flags, STORED, header.raw_name)
        or not {header.size, *unknown}.issuperset(_whole(sizes, mapped[name_end : name_end + extra]))
        or checksum not in {header.checksum, *unknown}
    ):
        raise ValueError(f"entry {name!r:.200} has two headers that contradict each other")
    return name_end + extra
