"""Comments: how many a direction may have."""

from __future__ import annotations

import pytest

from fumehood.errors import ConflictError
from fumehood.services import feedback
from tests.fakes.laboratory import Laboratory


def test_a_direction_has_so_many_comments_and_not_one_more(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MOST", 2)
    direction, other = lab.submit(), lab.submit()
    for text in ("one", "two"):
        feedback.comment(lab.store, lab.clock, "test", direction.id, None, text)
    with pytest.raises(ConflictError, match="has 2 comments"):
        feedback.comment(lab.store, lab.clock, "test", direction.id, None, "three")
    feedback.comment(lab.store, lab.clock, "test", other.id, None, "one")
    with lab.store.begin(write=False) as tx:
        assert feedback.said(tx, direction.id) == "- one\n- two"
