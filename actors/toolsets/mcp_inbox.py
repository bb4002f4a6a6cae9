"""What comes from a tool server: its messages, and their long strings on the disk.

The scanner (engine.mcp.scanner) cuts long strings out of a message while it arrives; here their text goes to one spool
file a message, unescaped. The message, with markers in the place of the strings, goes its way through the official
client; who gets its result finds by a marker what it stands for (`find`), and closes what it has found. Who has asked
for it removes what was not found (`drop`), in the end, whatever it was.

What a disk or a bound does not let us keep is missing at the end of a string; it is counted to its end all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import orjson
import trio

from actors._spool import Collected, Output, SpoolWriter, ToolsetSpool
from engine.errors import PeerError
from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.pace import Pace
from engine.mcp.reading import NoMessage, parse_json
from engine.mcp.scanner import NO_CUTS, Cuts, Event, Line, Piece, Rejected
from engine.mcp.unescape import Base64, Unescape
from engine.tools.output import OutputCollector

# Answers that wait to be taken. More calls than run at once cannot be answered; what nobody takes (the answer to a
# call that was cancelled) is dropped when as many newer ones have come.
HELD_MOST: Final = 64
# Read back from the disk at a time (see engine.tools.output.BATCH_BYTES).
BLOCK_BYTES: Final = 256 * KIB
# Of a long string in memory: for where a line of a name is shown, or of an error.
HEAD_BYTES: Final = 500


@attrs.define(slots=True)
class Arrived:
    """A message on its way to the client, which takes it as one of its own (mcp.shared.message.SessionMessage). `cuts`
    are what lies here of it."""

    message: Any
    cuts: Cuts = NO_CUTS
    metadata: None = None


class Cut:
    """A long string of a message. `size` is that of its text as far as it is kept; `lost` says why the rest is not, of
    which there are `missed` bytes with so many `line_feeds`."""

    def __init__(self, writer: SpoolWriter | None, offset: int) -> None:
        self._writer = writer
        self._offset = offset
        self.size = 0
        self.head = b""
        self.lost: str | None = None
        self.missed = 0
        self.line_feeds = 0
        self._last = b""

    def miss(self, data: bytes, why: str) -> None:
        """This comes next and is not kept."""
        self.lost = self.lost or why
        self.missed += len(data)
        self.line_feeds += data.count(b"\n")
        self._last = data[-1:] or self._last

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes of its text from `offset` on. Raises PeerError disk_full."""
        size = min(size, self.size - offset)
        if self._writer is None or size <= 0:
            return b""
        return await self._writer.read(self._offset + offset, size)

    async def feed(self, output: Output) -> None:
        """The text to an output."""
        for offset in range(0, self.size, BLOCK_BYTES):
            await output.feed(await self.read(offset, BLOCK_BYTES))
        if self.lost is not None and self.missed:
            await output.missed(self.missed, self.line_feeds, self._last, self.lost)

    async def decode(self, into: SpoolWriter) -> None:
        """What the text means as base64 to a spool file. Raises NotBase64, PeerError disk_full if all of it cannot
        be kept."""
        decoder = Base64()
        for offset in range(0, self.size, BLOCK_BYTES):
            await _write_all(into, decoder.feed(await self.read(offset, BLOCK_BYTES)))
        if self.lost is not None:
            raise PeerError("disk_full", self.lost)
        await _write_all(into, decoder.finish())


class Held:
    """The cuts of one message. `aclose` removes their file."""

    def __init__(self) -> None:
        self.cuts: list[Cut] = []
        self.names = Cuts()
        self.writer: SpoolWriter | None = None
        self.shown: OutputCollector | None = None  # of the first cut

    def take_sole(self, text: str) -> Collected | None:
        """If the string stands for the message's only cut, what a tool gives that has just this text: nothing has to
        be read again. The file is the caller's from then on."""
        cut = self.find(text)
        if cut is None or len(self.cuts) > 1 or self.shown is None:
            return None
        if cut.lost is not None:
            self.shown.kept = cut.size
            self.shown.lost(0, cut.lost)
        file = None
        if self.writer is not None and cut.size and not (cut.lost is not None and self.shown.fits):
            file, self.writer = self.writer.file, None
        return Collected(self.shown.result(file.handle if file is not None else None), self.shown.size, file)

    def plain(self, text: str, most: int | None = None) -> str:
        """The first `most` characters of the string. Of one with a marker as many of its beginning as are in memory,
        and its size."""
        cut = self.find(text)
        if cut is None:
            return text[:most]
        return f"{cut.head.decode(errors='ignore')[:most]}… ({cut.size + cut.missed:,} bytes)"

    def find(self, text: str) -> Cut | None:
        """What the string stands for; None if it is itself."""
        try:
            index = self.names.find(text)
        except ValueError:
            return None
        return None if index is None else self.cuts[index]

    async def aclose(self) -> None:
        """Idempotent, shielded."""
        self.cuts = []
        self.names = Cuts()
        await self.forget()

    async def forget(self) -> None:
        """Remove the texts; that they were there is still known."""
        writer, self.writer = self.writer, None
        if writer is not None:
            await writer.discard()


class Inbox:
    """The answers of one server that wait to be taken. `on_noise` is told, in a sentence, of what was dropped."""

    def __init__(self, spool: ToolsetSpool, on_noise: Callable[[str], None], limits: Limits = DEFAULT) -> None:
        self.spool = spool
        self.on_noise = on_noise
        self.limits = limits
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._pace = Pace(limits.mcp_messages)

    async def pace(self, size: int = 0, count: int = 1) -> None:
        """Messages of so many bytes came: wait until the server may send the next ones."""
        wait = self._pace.take(count, size, trio.current_time())
        if wait:
            await trio.sleep(wait)

    def arrival(self) -> Arrival:
        """For one stream of messages."""
        return Arrival(self)

    def find(self, texts: Iterable[str]) -> Held | None:
        """The cuts of the message whose strings these are, now the caller's to close; None if it has none."""
        if not self._held:
            return None
        for text in texts:
            for prefix, held in self._held.items():
                if text.startswith(prefix):
                    del self._held[prefix]
                    return held
        return None

    def take(self, cuts: Cuts) -> Held:
        """What lies here of a message with these cuts, now the caller's to close."""
        return self._held.pop(cuts.prefix, None) or Held()

    async def drop(self, cuts: Cuts) -> None:
        """Remove what of a message with these cuts lies here."""
        await self.take(cuts).aclose()

    async def deliver(self, stream: Any, message: Any, cuts: Cuts = NO_CUTS) -> None:
        """To the client, whose what lies here is from then on; if it does not take it, nobody will."""
        try:
            await stream.send(Arrived(message, cuts))
        except BaseException:
            await self.drop(cuts)
            raise

    async def hold(self, held: Held) -> None:
        self._held[held.names.prefix] = held
        if len(self._held) > HELD_MOST:
            _, oldest = self._held.popitem(last=False)
            await oldest.aclose()

    async def aclose(self) -> None:
        """Remove what nobody took."""
        while self._held:
            _, held = self._held.popitem()
            await held.aclose()


class Arrival:
    """Messages of one stream, in order: what the scanner gives of them is taken, one event after the other."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._open = Held()  # of the message that arrives
        self._unescape = Unescape()
        self._block = bytearray()  # text of the cut that arrives, not written

    async def take(self, event: Event) -> bytes | None:
        """The message if the event is the end of one that goes on to the client."""
        match event:
            case Piece(index, data):
                if index == len(self._open.cuts):
                    await self._end_cut()
                    self._begin_cut()
                cut = self._open.cuts[index]
                self._block += self._unescape.feed(data)
                # With the piece that comes next no more than what may be in memory of a string.
                if len(self._block) >= self._inbox.limits.tool_memory_bytes // 2:
                    await self._write(cut)
                return None
            case Line(data, cuts):
                await self._inbox.pace(len(data))
                return data if not cuts.sizes else await self._end_message(data, cuts)
            case Rejected(reason, head):
                await self._inbox.pace()
                await self._drop(f"a message {reason}: {head.decode(errors='replace')}")
                return None

    async def aclose(self) -> None:
        """Remove what has come of a message that did not end."""
        self._block.clear()
        dropped, self._open = self._open, Held()
        await dropped.aclose()

    async def _end_message(self, data: bytes, cuts: Cuts) -> bytes | None:
        await self._end_cut()
        try:
            message = parse_json(data)
        except NoMessage:
            await self._drop("a message with a long string is not JSON")
            return data  # whoever reads it finds that, too
        if not isinstance(message, dict) or "method" in message:
            await self._drop("a message that is no answer has a string that is too long")
            # A request is refused by whoever misses what it is about: the server does not wait for ever.
            if isinstance(message, dict) and "id" in message and not cuts.among(message["id"], message["method"]):
                return orjson.dumps({key: message.get(key) for key in ("jsonrpc", "id", "method")})
            return None
        held, self._open = self._open, Held()
        held.names = cuts
        await self._inbox.hold(held)
        return data

    async def _drop(self, why: str) -> None:
        self._unescape = Unescape()
        self._inbox.on_noise(why)
        await self.aclose()

    def _begin_cut(self) -> None:
        writer = self._open.writer
        self._open.cuts.append(Cut(writer, writer.file.size if writer is not None else 0))

    async def _end_cut(self) -> None:
        if self._open.cuts:
            self._block += self._unescape.finish()
            await self._write(self._open.cuts[-1])

    async def _write(self, cut: Cut) -> None:
        data = bytes(self._block)
        self._block.clear()
        if not data:
            return
        cut.head += data[: HEAD_BYTES - len(cut.head)]
        if cut is self._open.cuts[0]:
            self._open.shown = self._open.shown or OutputCollector(self._inbox.limits, writes=False)
            self._open.shown.feed(data)
        if cut.lost is not None:
            cut.miss(data, cut.lost)
            return
        try:
            if self._open.writer is None:
                self._open.writer = cut._writer = await self._inbox.spool.file()
            written = await self._open.writer.write(data)
        except PeerError as exc:
            cut.miss(data, exc.message)
            return
        cut.size += written
        if written < len(data):
            cut.miss(data[written:], "a bound of what is kept on the disk is reached")


async def _write_all(into: SpoolWriter, data: bytes) -> None:
    if data and await into.write(data) < len(data):
        raise PeerError("disk_full", "a bound of what is kept on the disk is reached")
