"""Content as files, named by its hash, and the rows that refer to it."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CallerError, PeerError
from engine.runs.record import Run
from engine.storage import attachments, blobs, hidden, outputs, waiting, window
from engine.storage.blobs import Blobs
from engine.storage.changes import AddMessage, AddPart, PutPart
from engine.storage.spool import Spool, SpoolFile
from engine.transcript.records import AssistantMessage, Blob, FilePart, Message, ToolPart, UserMessage
from tests.engine.storage.conftest import NOW, Store


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spooled(folder: Path, data: bytes) -> SpoolFile:
    spool = Spool(folder / "spool")
    if not spool.folder.exists():
        spool.sweep()
    file = spool.directory("t").create()
    assert file.claim(len(data)) == len(data)
    file.write(data)
    return file


def call(name: str, blob: Blob | None = None, **fields: Any) -> ToolPart:
    return ToolPart(id=f"prt_{name}", call_id=name, tool="a.b", state="completed", output="head", whole=blob, **fields)


def blob(data: bytes, handle: str = "out_1") -> Blob:
    return Blob(handle=handle, hash=digest(data), size=len(data))


def answer(store: Store, name: str, session: str = "ses_1") -> str:
    store.apply(AddMessage(AssistantMessage(id=f"msg_{name}", created_at=NOW)), session=session)
    return f"msg_{name}"


# ------------------------------------------------------------------ files
def test_a_spool_file_becomes_a_blob_without_a_copy(tmp_path: Path) -> None:
    made = Blobs(tmp_path / "blobs")
    file = spooled(tmp_path, b"content")
    inode = file.path.stat().st_ino
    made.take(file)
    path = tmp_path / "blobs" / digest(b"content")
    assert path.stat().st_ino == inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not file.path.exists()
    assert made.read(digest(b"content"), 3, 99) == b"tent"
    assert list(made.names()) == [digest(b"content")]


def test_equal_content_is_one_file(tmp_path: Path) -> None:
    made = Blobs(tmp_path / "blobs")
    made.take(spooled(tmp_path, b"same"))
    inode = (tmp_path / "blobs" / digest(b"same")).stat().st_ino
    again = spooled(tmp_path, b"same")
    made.take(again)
    made.add(digest(b"same"), b"same")
    assert not again.path.exists()
    assert list(made.names()) == [digest(b"same")]
    assert (tmp_path / "blobs" / digest(b"same")).stat().st_ino == inode
    made.remove([digest(b"same"), digest(b"unknown")])
    assert list(made.names()) == []
    with pytest.raises(PeerError):
        made.read(digest(b"same"), 0, 1)


@pytest.mark.parametrize("operation", ["fsync", "rename"])
@pytest.mark.parametrize("how", ["take", "add"])
def test_a_disk_that_refuses_leaves_no_blob(tmp_path: Path, operation: str, how: str, monkeypatch: Any) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = Blobs(tmp_path / "blobs")
    file = spooled(tmp_path, b"content")
    with monkeypatch.context() as patch:
        patch.setattr(blobs.os, operation, refuse)
        with pytest.raises(PeerError, match="No space left"):
            made.take(file) if how == "take" else made.add(digest(b"content"), b"content")
    assert os.listdir(tmp_path / "blobs") == []
    assert file.path.exists()


def test_what_a_crash_left_half_made_is_no_blob(tmp_path: Path) -> None:
    made = Blobs(tmp_path / "blobs")
    assert list(made.names()) == []
    made.add(digest(b"x"), b"x")
    (tmp_path / "blobs" / ".new-abc").write_bytes(b"half")
    (tmp_path / "blobs" / "README").write_bytes(b"not ours")
    assert list(made.names()) == [digest(b"x")]
    assert sorted(os.listdir(tmp_path / "blobs")) == sorted([digest(b"x"), "README"])


# ------------------------------------------------------------------ rows
def test_references_are_counted_and_go_with_their_sessions(store: Store) -> None:
    one, two = blob(b"one", "out_1"), blob(b"two", "out_2")
    for name in ("1", "2"):
        store.session(name)
        message = answer(store, name, f"ses_{name}")
        store.apply(AddPart(message, call(f"a{name}", one)), session=f"ses_{name}")
    store.apply(AddPart("msg_1", call("b", two)))
    assert attachments.unused(store.reader, 9) == []
    hidden.delete(store.writer, "ses_1")
    assert attachments.unused(store.reader, 9) == [two.hash]
    attachments.forget(store.writer, [one.hash, two.hash])  # the first is still referred to
    assert attachments.unknown(store.reader, [one.hash, two.hash]) == [two.hash]
    assert attachments.find(store.reader, "out_2") is None
    hidden.delete(store.writer, "ses_2")
    assert attachments.unused(store.reader, 9) == [one.hash]
    attachments.forget(store.writer, [one.hash])
    assert store.count("blobs") == store.count("attachments") == 0


def test_a_part_refers_from_its_last_state_on_however_often_that_is_stored(store: Store) -> None:
    store.session()
    message = answer(store, "1")
    pending = ToolPart(id="prt_a", call_id="a", tool="a.b", state="pending")
    store.apply(AddPart(message, pending))
    assert store.count("attachments") == 0
    for _ in range(2):
        store.apply(PutPart(call("a", blob(b"x"))))
    assert store.count("attachments") == 1
    assert attachments.find(store.reader, "out_1") == attachments.Attachment(digest(b"x"), 1, text=True)
    store.start()
    store.apply(AddPart(answer(store, "2"), call("b", blob(b"y", "out_2"))))
    assert window.read(store.reader, "ses_1", 9, 9999).messages[-1].parts == (call("b", blob(b"y", "out_2")),)


def test_what_a_message_that_waits_refers_to_stays(store: Store) -> None:
    store.session()
    file = FilePart(id="prt_f", mime="image/png", size=1, handle="out_f", hash=digest(b"x"))
    for name in ("1", "2"):
        run = Run(id=f"run_{name}", session_id="ses_1", status="queued", model="m", created_at=NOW)
        message = Message(UserMessage(id=f"msg_{name}", created_at=NOW, run_id=run.id), (renamed(file, name),))
        waiting.enqueue(store.writer, run, message, most=9, expected_revision=None, claim=None, now=NOW)
    assert store.count("attachments") == 2
    begun = waiting.begin(store.writer, "run_1", seq_block=10, now=NOW)
    assert begun is not None
    assert begun.message.parts == (renamed(file, "1"),)
    assert store.count("attachments") == 2  # the part's instead of the queue's
    assert attachments.unused(store.reader, 9) == []
    waiting.drop(store.writer, Run(id="run_2", session_id="ses_1", status="cancelled", model="m", created_at=NOW), NOW)
    assert store.count("attachments") == 1
    hidden.delete(store.writer, "ses_1")
    assert attachments.unused(store.reader, 9) == [digest(b"x")]


def renamed(file: FilePart, name: str) -> FilePart:
    return FilePart(id=f"prt_{name}", mime=file.mime, size=file.size, handle=f"out_{name}", hash=file.hash)


# ------------------------------------------------------------------ by handle
def test_an_output_is_read_by_its_handle_in_whole_characters(store: Store, tmp_path: Path) -> None:
    text = "aé漢😀\n" * 1000
    data = text.encode()
    made = Blobs(tmp_path / "blobs")
    made.take(spooled(tmp_path, data))
    store.session()
    store.apply(AddPart(answer(store, "1"), call("a", blob(data))))
    for limit in (1, 5, 7, 1000, 65_536):
        pieces, offset = [], 0
        while len(pieces) < 50 or limit > 5:
            piece = outputs.read(store.reader, "out_1", offset, limit, made)
            assert piece.total == len(data)
            pieces.append(piece.text)
            if piece.next_offset is None:
                break
            offset = piece.next_offset
        assert text.startswith("".join(pieces))
        assert limit <= 5 or "".join(pieces) == text
    for handle in ("out_2", "out_", "nonsense"):
        with pytest.raises(CallerError, match="no stored output"):
            outputs.read(store.reader, handle, 0, 10, made)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_media_are_read_by_their_handle_as_base64(store: Store, tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * 4
    data = data[:size]
    made = Blobs(tmp_path / "blobs")
    made.add(digest(data), data)
    store.session()
    file = FilePart(id="prt_f", mime="image/png", size=size, handle="out_f", hash=digest(data))
    store.apply(AddPart(answer(store, "1"), file))
    expected = base64.b64encode(data).decode()
    for limit in (1, 3, 4, 7, 9999):
        found, offset = "", 0
        while True:
            piece = outputs.read(store.reader, "out_f", offset, limit, made)
            assert piece.total == len(expected)
            found += piece.text
            if piece.next_offset is None:
                break
            offset = piece.next_offset
        assert found == expected
