"""How long a certificate holds, as `greenroom doctor` sees it."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import trustme

from actors.cli.doctor import _tls
from engine.config import Tls


@pytest.mark.parametrize(
    ("begins", "ends", "state", "said"),
    [
        (-10, -1, "failed", "expired"),
        (1, 10, "failed", "not yet valid"),
        (-10, 13, "warning", "it ends on"),
        (-10, 15, "good", "with its key"),
    ],
)
def test_a_certificate_that_does_not_hold(tmp_path: Path, begins: int, ends: int, state: str, said: str) -> None:
    file = tmp_path / "with-key.pem"
    now = datetime.datetime.now(datetime.UTC)
    not_before, not_after = (now + datetime.timedelta(days=days) for days in (begins, ends))
    issued = trustme.CA().issue_cert("localhost", not_before=not_before, not_after=not_after)
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    told = _tls(Tls(cert_file=str(file), key_file=str(file)))
    assert told.state == state and said in told.text and str(file) in told.text
