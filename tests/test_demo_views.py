"""The demonstration's look into recorded bytes: what is there is found wherever it begins, and noise is not taken for it."""

from __future__ import annotations

import base64
import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agency_node.demo.story import CASE_NUMBER
from agency_node.demo.views import opens, plain_values
from crypto.keys import SealingPrivateKey
from crypto.message_types import MESSAGES, MessageType
from tests.message_samples import BODIES, RECIPIENT_KEY, SENDER_KEY, message_of

SECRETS = {"the case number": CASE_NUMBER.encode(), "the docket": b"26-CF-101"}
CHANCE = random.Random(7)

WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda data: data.hex().encode(),
    "HEX": lambda data: data.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
}


@pytest.mark.parametrize("kind", [kind for kind in BODIES if MESSAGES[kind].sealed])
@settings(max_examples=3)
@given(data=st.data())
def test_only_the_addressees_key_opens_a_sealed_message(kind: MessageType, data: st.DataObject) -> None:
    message = message_of(kind, data.draw(BODIES[kind]))
    assert opens(message, RECIPIENT_KEY, SENDER_KEY.verifying_key)
    assert not opens(message, SealingPrivateKey.from_secret(bytes([3]) * 32), SENDER_KEY.verifying_key)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("before", range(7))
def test_a_value_is_found_wherever_it_begins(wrapping: str, before: int) -> None:
    inside = CHANCE.randbytes(before) + SECRETS["the case number"] + CHANCE.randbytes(9)
    around = CHANCE.randbytes(500)
    assert plain_values(around + WRAPPINGS[wrapping](inside) + around, SECRETS) == ("the case number",)


def test_noise_is_not_taken_for_a_secret() -> None:
    noise = CHANCE.randbytes(3_000_000)
    assert plain_values(noise + base64.b64encode(noise), SECRETS) == ()
