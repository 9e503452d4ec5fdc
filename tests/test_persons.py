"""Key files of persons, legal offices and root holders: they open with their passphrase only, unchanged only, and tell nothing."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from agency_node.errors import RequestError
from agency_node.legal.persons import (
    PASSPHRASE_VARIABLE,
    KeyKind,
    ask_passphrase,
    create_discovery_key,
    create_office_key,
    create_person_key,
    create_root_key,
    kind_of_key,
    read_discovery_key,
    read_office_key,
    read_person_key,
    read_root_key,
)
from crypto.canonical import AgencyId, JsonObject, PersonId, b64url_encode, canonical_json
from crypto.envelope import OFFERED_SUITES, P256_SHA256_AES256GCM
from crypto.errors import MisuseError
from crypto.fields import Fields
from crypto.roster_entries import Credential, Person, PersonRole

DETECTIVE = PersonId("northport-pd:detective-4")
OFFICE = AgencyId("northport-attorney")
PASSPHRASE = "correct horse battery staple"


def detective(path: Path, passphrase: str = "") -> JsonObject:
    return create_person_key(path, DETECTIVE, PersonRole.INVESTIGATOR, passphrase, without_passphrase=not passphrase)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "detective.key"
    detective(path)
    return path


# --- what was written is what is read -----------------------------------------------------------------------------------


def test_a_person_s_key_comes_back_and_is_the_credential_that_was_printed(tmp_path: Path) -> None:
    path = tmp_path / "detective.key"
    printed = detective(path, PASSPHRASE)
    key = read_person_key(path, PASSPHRASE)
    credential = Credential.from_fields(Fields(printed, "credential"))
    assert (key.person_id, key.role, key.credential, key.key_id) == (DETECTIVE, PersonRole.INVESTIGATOR, credential, credential.key_id)
    key.credential.key.check(key.signing_key.sign(b"message"), b"message")  # type: ignore[union-attr]
    Person(DETECTIVE, date(2027, 6, 30), (credential,))
    assert b64url_encode(key.signing_key.export_secret()) not in path.read_text()


def test_a_discovery_key_comes_back_and_opens(tmp_path: Path) -> None:
    public = create_discovery_key(tmp_path / "d.key", OFFICE, "", without_passphrase=True)
    key = read_discovery_key(tmp_path / "d.key")
    assert (key.agency, key.sealing_key.public_key) == (OFFICE, public)
    suite = OFFERED_SUITES[P256_SHA256_AES256GCM]
    assert key.sealing_key.open(suite, public.seal(suite, b"scores", b"info"), b"info") == b"scores"


def test_an_office_key_comes_back(tmp_path: Path) -> None:
    public = create_office_key(tmp_path / "o.key", OFFICE, PASSPHRASE)
    key = read_office_key(tmp_path / "o.key", PASSPHRASE)
    assert (key.agency, key.signing_key.verifying_key) == (OFFICE, public)
    with pytest.raises(RequestError, match="the passphrase is wrong"):
        read_office_key(tmp_path / "o.key", "five words")


def test_a_root_key_comes_back(tmp_path: Path) -> None:
    entry = create_root_key(tmp_path / "r.key", OFFICE, "", without_passphrase=True)
    key = read_root_key(tmp_path / "r.key")
    assert (key.holder, key.root_key) == (OFFICE, entry)


def test_the_file_is_its_owner_s_alone_and_is_never_overwritten(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(RequestError, match="no key is overwritten"):
        detective(file)
    assert file.read_bytes() == before
    with pytest.raises(RequestError, match="cannot be written"):
        detective(file / "nowhere")
    dangling = file.with_name("link")
    dangling.symlink_to(file.with_name("elsewhere"))
    with pytest.raises(RequestError):
        detective(dangling)
    assert not file.with_name("elsewhere").exists()


# --- passphrases --------------------------------------------------------------------------------------------------------


def test_only_the_right_passphrase_opens(tmp_path: Path) -> None:
    path = tmp_path / "detective.key"
    detective(path, PASSPHRASE)
    for wrong in ("", PASSPHRASE + " ", PASSPHRASE.upper()):
        with pytest.raises(RequestError, match="the passphrase is wrong, or the file was changed") as refused:
            read_person_key(path, wrong)
        assert refused.value.__cause__ is None
        assert not wrong.strip() or wrong not in str(refused.value)


def test_one_passphrase_has_one_spelling(tmp_path: Path) -> None:
    path = tmp_path / "detective.key"
    detective(path, "\N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert read_person_key(path, "e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}").person_id == DETECTIVE


def test_no_passphrase_only_when_asked_for_in_so_many_words(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a key needs a passphrase"):
        create_person_key(tmp_path / "a.key", DETECTIVE, PersonRole.INVESTIGATOR, "")
    with pytest.raises(RequestError, match="leave one of the two out"):
        create_person_key(tmp_path / "a.key", DETECTIVE, PersonRole.INVESTIGATOR, "x", without_passphrase=True)
    assert not (tmp_path / "a.key").exists()


def test_the_passphrase_comes_from_the_environment_or_is_refused_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "detective.key"
    detective(path, PASSPHRASE)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    assert read_person_key(path).person_id == DETECTIVE
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    with (tmp_path / "nothing").open("w+") as no_terminal:
        monkeypatch.setattr("sys.stdin", no_terminal)
        with pytest.raises(RequestError, match=f"set {PASSPHRASE_VARIABLE}"):
            read_person_key(path)


def test_a_new_passphrase_is_typed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    primary, secondary = os.openpty()
    try:
        with os.fdopen(secondary, "r", closefd=False) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            with pytest.raises(RequestError, match="differ"):
                ask_passphrase("a key", new=True, prompt=lambda prompt: prompt)
            asked: list[str] = []

            def answer(prompt: str) -> str:
                asked.append(prompt)
                return "one"

            assert ask_passphrase("a key", new=True, prompt=answer) == "one"
            assert asked == ["Passphrase for a key: ", "The same again: "]
    finally:
        os.close(primary)
        os.close(secondary)


# --- changed files ------------------------------------------------------------------------------------------------------


def changed(file: Path, **members: object) -> None:
    file.write_bytes(canonical_json(json.loads(file.read_bytes()) | members))


CHANGES: dict[str, Callable[[Path], object]] = {
    "another person": lambda file: changed(file, owner="northport-pd:detective-5"),
    "another role": lambda file: changed(file, role="reviewer"),
    "no role": lambda file: changed(file, role=None),
    "another public key": lambda file: changed(file, public=b64url_encode(bytes(32))),
    "another salt": lambda file: changed(file, salt=b64url_encode(bytes(16))),
    "another nonce": lambda file: changed(file, nonce=b64url_encode(bytes(12))),
    "another secret": lambda file: changed(file, sealed=b64url_encode(bytes(48))),
    "no secret": lambda file: changed(file, sealed=""),
    "short salt": lambda file: changed(file, salt=""),
    "short nonce": lambda file: changed(file, nonce=b64url_encode(bytes(7))),
    "protection claimed": lambda file: changed(file, protection="passphrase"),
    "unknown protection": lambda file: changed(file, protection="double"),
    "unknown kind": lambda file: changed(file, kind="witness"),
    "another version": lambda file: changed(file, type="sealmatch-2/key-file"),
    "a member more": lambda file: changed(file, note="x"),
    "number for text": lambda file: changed(file, owner=7),
    "name that is none": lambda file: changed(file, owner="North Port"),
    "not canonical": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "empty": lambda file: file.write_bytes(b""),
    "random": lambda file: file.write_bytes(os.urandom(300)),
    "too long": lambda file: file.write_bytes(b"[" * 5000),
    "a list": lambda file: file.write_bytes(b"[]"),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused(file: Path, change: str) -> None:
    assert read_person_key(file).person_id == DETECTIVE
    CHANGES[change](file)
    with pytest.raises(RequestError) as refused:
        read_person_key(file, PASSPHRASE)
    assert str(file) in str(refused.value)
    assert ": " in str(refused.value), "it says what to do"


def test_every_bit_of_the_sealed_part_counts(file: Path) -> None:
    members = json.loads(file.read_bytes())
    for position in range(len(members["sealed"])):
        text = members["sealed"]
        other = "A" if text[position] != "A" else "B"
        changed(file, sealed=text[:position] + other + text[position + 1 :])
        with pytest.raises(RequestError):
            read_person_key(file)


def test_a_key_of_one_kind_is_none_of_another(file: Path, tmp_path: Path) -> None:
    create_discovery_key(tmp_path / "d.key", OFFICE, "", without_passphrase=True)
    create_root_key(tmp_path / "r.key", OFFICE, "", without_passphrase=True)
    create_office_key(tmp_path / "o.key", OFFICE, "", without_passphrase=True)
    readers = {"detective.key": read_person_key, "d.key": read_discovery_key, "r.key": read_root_key, "o.key": read_office_key}
    assert [kind_of_key(tmp_path / name) for name in readers] == [KeyKind.PERSON, KeyKind.DISCOVERY, KeyKind.ROOT, KeyKind.OFFICE]
    assert kind_of_key(tmp_path / "nowhere") is None
    for name, own in readers.items():
        for reader in readers.values():
            if reader is not own:
                with pytest.raises(RequestError, match=r"made by `sealmatch .*: name a"):
                    reader(tmp_path / name)
    changed(file, kind="root", role=None, owner=str(OFFICE))
    with pytest.raises(RequestError, match="file was changed"):
        read_root_key(file)


# --- no secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_in_repr_and_none_can_be_pickled(file: Path, tmp_path: Path) -> None:
    create_discovery_key(tmp_path / "d.key", OFFICE, "", without_passphrase=True)
    create_root_key(tmp_path / "r.key", OFFICE, "", without_passphrase=True)
    create_office_key(tmp_path / "o.key", OFFICE, "", without_passphrase=True)
    person, discovery, root = read_person_key(file), read_discovery_key(tmp_path / "d.key"), read_root_key(tmp_path / "r.key")
    office = read_office_key(tmp_path / "o.key")
    secrets = tuple(key.export_secret() for key in (person.signing_key, discovery.sealing_key, root.signing_key, office.signing_key))
    for key, secret in zip((person, discovery, root, office), secrets, strict=True):
        assert repr(secret)[2:-1] not in repr(key)
        assert secret.hex() not in repr(key)
        with pytest.raises(MisuseError):
            pickle.dumps(key)
