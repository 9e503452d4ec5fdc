"""Packs of ArcFace-style models: what runs, what is refused, and that nothing is fetched or told to anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import NodeConfig
from agency_node.errors import ConfigError, EnrolmentError, ImageError
from agency_node.faces.embedder import Face, load_embedder, the_one_face
from agency_node.faces.image import read_image
from agency_node.faces.insightface_embedder import PROCEDURE
from agency_node.faces.pack import PACK_FILE, PinnedPack
from agency_node.holder.candidates import BOOKING
from agency_node.holder.enrol import enrol_folder
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.store import open_store
from agency_node.vault import Vault
from crypto.codes import values_of
from crypto.embedding import EmbeddingModel
from tests.face_packs import (
    ALIGNED,
    CENTRE,
    DETECTION,
    DIMENSIONS,
    LICENCE,
    RECOGNITION,
    detection_model,
    face_picture,
    model_file,
    pin,
    recognition_model,
    write_faces,
    write_models,
    write_pack,
)
from tests.face_samples import encoded
from tests.test_enrol import NOW, write_table

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> PinnedPack:
    return write_pack(tmp_path_factory.mktemp("pack"))


def embed(pack: PinnedPack, person: int) -> Face:
    return the_one_face(load_embedder("insightface", pack), read_image(encoded(face_picture(person))))


def cosine(model: EmbeddingModel, one: Face, other: Face) -> float:
    return float(model.centred_unit(one.embedding) @ model.centred_unit(other.embedding))


# --- what runs --------------------------------------------------------------------------------------------------------


def test_a_face_is_found_aligned_and_embedded(pack: PinnedPack) -> None:
    """Detection, alignment and recognition as the models say: the face's place to a pixel, and the network's own product."""
    embedder = load_embedder("insightface", pack)
    picture = face_picture(1)
    (face,) = embedder.faces(picture)
    assert (face.box.left, face.box.top, face.box.width, face.box.height) == (CENTRE - 20, CENTRE - 20, 40, 40)
    assert face.landmarks is not None
    expected = (ALIGNED - 56) / 112 * 40 + CENTRE
    for found, point in zip((face.landmarks.left_eye, face.landmarks.right_eye, face.landmarks.nose), expected, strict=False):
        assert np.hypot(found[0] - point[0], found[1] - point[1]) < 0.05
    assert face.embedding.shape == (DIMENSIONS,)
    assert face.embedding.dtype == np.float32
    cut = picture[CENTRE - 20 : CENTRE + 20, CENTRE - 20 : CENTRE + 20].astype(float).reshape(8, 5, 8, 5, 3).mean(axis=(1, 3))
    matrix = onnx.numpy_helper.to_array(onnx.load_model_from_string(recognition_model()).graph.initializer[0])
    by_hand = ((cut - 127.5) / 127.5).transpose(2, 0, 1).reshape(1, -1) @ matrix
    assert float(by_hand[0] @ face.embedding) / (np.linalg.norm(by_hand) * np.linalg.norm(face.embedding)) > 0.98
    assert "embedding" not in repr(face)


def test_one_person_is_nearer_than_another(pack: PinnedPack) -> None:
    embedder = load_embedder("insightface", pack)
    elsewhere = embedder.faces(face_picture(1, ((80, 80), (240, 200))))
    assert [face.box.left for face in elsewhere] == [60, 220]
    (stranger,) = embedder.faces(face_picture(2))
    (same,) = embedder.faces(face_picture(1))
    assert cosine(embedder.model, same, elsewhere[0]) > 0.99
    assert cosine(embedder.model, same, stranger) < 0.8


def test_a_face_too_large_for_the_first_view_is_found_in_the_second(pack: PinnedPack) -> None:
    """Red in every fifth pixel only: grey at 640 pixels, where cells are averaged, pure red at 128, where every fifth is taken."""
    picture = np.full((640, 640, 3), 110, np.uint8)
    picture[242:402:5, 242:402:5] = (255, 0, 0)
    picture = np.asarray(picture)
    (face,) = load_embedder("insightface", pack).faces(picture)[:1]
    assert face.box.width == 400


def test_pictures_without_or_with_several_faces_are_refused(pack: PinnedPack) -> None:
    embedder = load_embedder("insightface", pack)
    with pytest.raises(ImageError, match="no face was found"):
        the_one_face(embedder, read_image(encoded(np.full((320, 320, 3), 110, np.uint8))))
    with pytest.raises(ImageError, match="2 faces were found"):
        the_one_face(embedder, read_image(encoded(face_picture(1, ((80, 80), (240, 200))))))


def test_threads_get_what_one_thread_gets(pack: PinnedPack) -> None:
    embedder = load_embedder("insightface", pack)
    alone = [embedder.faces(face_picture(person))[0].embedding for person in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda person: embedder.faces(face_picture(person))[0].embedding, range(4)))
    assert (np.array(alone) == np.array(together)).all()


def test_a_gallery_is_enrolled_and_searched_with_a_pack(pack: PinnedPack, tmp_path: Path) -> None:
    """The model hash pins the gallery: neither dlib nor a pack with other weights meets it."""
    embedder = load_embedder("insightface", pack)
    engine = open_store(tmp_path / "node.sqlite")
    store = RecordStore(engine, Vault(bytes(32)), embedder.model)
    folder = write_faces(tmp_path / "faces", 3)
    table = write_table(folder, [(f"{person:03d}.png", f"R-{person}", "2019-05-04", BOOKING) for person in range(3)])
    assert enrol_folder(store, embedder, folder, table, NoProgress(), NOW).enrolled == 3
    scales = embedder.model.scales
    probe = embedder.model.probe_vector(embed(pack, 1).embedding)
    scores = values_of(store.templates()).astype(np.int64) @ probe / (scales.gamma * scales.mu)
    assert scores.argmax() == 1
    assert scores[1] > 0.98
    other = load_embedder("insightface", write_pack(tmp_path / "other", seed=8))
    for stranger in (load_embedder("dlib"), other):
        assert stranger.model.model_hash != embedder.model.model_hash
        with pytest.raises(EnrolmentError, match="another embedding model"):
            RecordStore(engine, Vault(bytes(32)), stranger.model)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"faces": 2}, True),
        ({"name": "other"}, False),
        ({"spread_milli": 2000}, False),
        ({"centre": [1e-3] * DIMENSIONS}, False),
    ],
)
def test_the_model_hash_covers_what_moves_an_embedding(pack: PinnedPack, tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    found = load_embedder("insightface", write_pack(tmp_path, **changes)).model
    assert (found.model_hash == load_embedder("insightface", pack).model.model_hash) is same


def test_the_model_hash_covers_the_procedure(pack: PinnedPack, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_embedder("insightface", pack).model.model_hash
    monkeypatch.setattr("agency_node.faces.insightface_embedder.PROCEDURE", PROCEDURE + ", otherwise")
    assert load_embedder("insightface", pack).model.model_hash != before


# --- what is refused --------------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def tampered(folder: Path, name: str, *, act: Callable[[Path], None] = flipped) -> PinnedPack:
    pinned = write_pack(folder)
    act(folder / name)
    return pinned


@pytest.mark.parametrize("name", [DETECTION, RECOGNITION, PACK_FILE])
@pytest.mark.parametrize("act", [flipped, Path.unlink], ids=["changed", "missing"])
def test_a_tampered_or_missing_file_is_refused(tmp_path: Path, name: str, act: Callable[[Path], None]) -> None:
    pinned = tampered(tmp_path, name, act=act)
    expected = "is not the file that .* pins by its SHA-256: take the pack anew" if act is flipped else "cannot be read: take the pack anew"
    with pytest.raises(ConfigError, match=expected):
        load_embedder("insightface", pinned)


@pytest.mark.parametrize("name", [DETECTION, RECOGNITION])
def test_a_file_that_changes_after_it_was_checked_is_not_run(tmp_path: Path, name: str) -> None:
    embedder = load_embedder("insightface", write_pack(tmp_path))
    flipped(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name} is not the file that {PACK_FILE} pins"):
        embedder.faces(face_picture(1))


def test_weights_in_another_file_are_refused_at_any_depth(tmp_path: Path) -> None:
    """No hash would cover them: whoever writes that file would choose the embedding."""
    for place in ("initial value", "attribute", "inner graph"):
        model = onnx.load_model_from_string(recognition_model())
        outside = onnx.TensorProto(name="matrix", data_type=onnx.TensorProto.FLOAT, dims=[192, DIMENSIONS])
        outside.data_location = onnx.TensorProto.EXTERNAL
        outside.external_data.add(key="location", value="weights.bin")
        constant = onnx.helper.make_node("Constant", [], ["more"])
        constant.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=outside))
        if place == "initial value":
            model.graph.initializer[0].CopyFrom(outside)
        elif place == "attribute":
            model.graph.node.append(constant)
        else:
            inner = onnx.helper.make_graph([constant], "inner", [], [])
            model.graph.node.append(onnx.helper.make_node("If", ["matrix"], ["more"], then_branch=inner, else_branch=inner))
        folder = tmp_path / place
        write_models(folder)
        (folder / RECOGNITION).write_bytes(model.SerializeToString())
        np.zeros((192, DIMENSIONS), np.float32).tofile(folder / "weights.bin")
        embedder = load_embedder("insightface", write_pack_over(folder))
        with pytest.raises(ConfigError, match="recognition model keeps weights in other files, which no hash covers"):
            embedder.faces(face_picture(1))


def write_pack_over(folder: Path) -> PinnedPack:
    """The pack of the models that lie in the folder."""
    manifest = json.loads((write_pack(folder.parent / "whole").folder / PACK_FILE).read_bytes())
    manifest |= {task: model_file(folder, name).model_dump() for task, name in (("detection", DETECTION), ("recognition", RECOGNITION))}
    return pin(folder, json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (DETECTION, b"no model", "detection model is not an ONNX model|cannot run the pack's detection model"),
        (RECOGNITION, b"", "recognition model is not an ONNX model|cannot run the pack's recognition model"),
        (RECOGNITION, recognition_model()[:-4000], "recognition model is not an ONNX model|cannot run the pack's recognition model"),
        (DETECTION, recognition_model(), "detection model has no landmarks"),
        (RECOGNITION, detection_model(), "not of ArcFace's form"),
        (RECOGNITION, recognition_model(7, 126), "not of ArcFace's form"),
    ],
)
def test_a_file_that_is_no_such_model_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    write_models(tmp_path / "pack")
    (tmp_path / "pack" / name).write_bytes(data)
    embedder = load_embedder("insightface", write_pack_over(tmp_path / "pack"))
    with pytest.raises(ConfigError, match=message):
        embedder.faces(face_picture(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detection": {"file": "../det_small.onnx", "sha256": "0" * 64}}, r"detection\.file"),
        ({"detection": {"file": "/etc/det.onnx", "sha256": "0" * 64}}, r"detection\.file"),
        ({"recognition": {"file": "rec_small.onnx", "sha256": "0" * 63}}, r"recognition\.sha256"),
        ({"type": "another"}, "type"),
        ({"licence": ""}, "licence"),
        ({"centre": [0.0] * 640}, "centre"),
        ({"also": 1}, "also"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    pinned = write_pack(tmp_path)
    manifest = json.loads((tmp_path / PACK_FILE).read_bytes()) | changes
    with pytest.raises(ConfigError, match=f"is not the manifest of a pack .*{message}"):
        load_embedder("insightface", pin(pinned.folder, json.dumps(manifest).encode()))
    with pytest.raises(ConfigError, match="is not the manifest of a pack"):
        load_embedder("insightface", pin(pinned.folder, b"[]"))


def test_statistics_that_do_not_fit_the_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spread must lie between"):
        load_embedder("insightface", write_pack(tmp_path / "a", spread_milli=30_000))
    embedder = load_embedder("insightface", write_pack(tmp_path / "b", centre=[0.0] * 256))
    with pytest.raises(ConfigError, match=r"gives 512 dimensions, and pack.json says 256"):
        embedder.faces(face_picture(1))


@pytest.mark.parametrize(
    ("embedder", "named", "fits"),
    [
        ("insightface", {"folder": "pack", "sha256": "0f" * 32}, True),
        ("insightface", {}, False),
        ("insightface", {"folder": "pack"}, False),
        ("insightface", {"sha256": "0f" * 32}, False),
        ("dlib", {"folder": "pack", "sha256": "0f" * 32}, False),
        ("dlib", {}, True),
    ],
)
def test_node_toml_names_a_pack_exactly_for_insightface(embedder: str, named: dict[str, str], fits: bool) -> None:
    values: dict[str, object] = {
        "agency": "eastfield-pd",
        "roles": ["requester"],
        "broker": "https://broker.example.org",
        "root_fingerprint": "0f" * 32,
        "embedder": embedder,
        "face_pack": named,
    }
    if not fits:
        with pytest.raises(ConfigError, match="the embedder insightface needs"):
            NodeConfig.checked(values)
        return
    config = NodeConfig.checked(values)
    assert config.pinned_pack(Path("/n")) == (PinnedPack(Path("/n/pack"), "0f" * 32) if named else None)
    with pytest.raises(ConfigError, match="the embedder insightface works with a pack"):
        load_embedder("insightface")


# --- nothing leaves ---------------------------------------------------------------------------------------------------

QUIET = """
import os, sys
from pathlib import Path
seen = []
LOCAL = {"socket.__new__", "socket.bind", "socket.gethostname"}  # a library asks when it is imported whether this machine has IPv6
KERNELS = (os.devnull, os.environ["NUMBA_CACHE_DIR"])  # kernels of our own are kept there
def watch(event, args):
    if event.startswith(("socket.", "urllib.")) and event not in LOCAL:
        seen.append((event, str(args)))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+") and not str(args[0]).startswith(KERNELS):
        seen.append((event, str(args)))
sys.addaudithook(watch)
from agency_node.faces.embedder import load_embedder
from agency_node.faces.pack import unverified_pin
from tests.face_packs import face_picture
assert "onnxruntime" not in sys.modules
embedder = load_embedder("insightface", unverified_pin(Path(sys.argv[1])))
embedder.model
assert "onnxruntime" not in sys.modules, "a node that only serves loads no network"
assert len(embedder.faces(face_picture(1))) == 1
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
assert "onnxruntime" in sys.modules and "insightface" in sys.modules
assert not seen, seen
links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{name}")]
assert not [link for link in links if link.startswith("socket:")], links
"""


def run(script: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script in a process with an empty home, and with nothing about telemetry in its environment."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    variables |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    variables.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".venv" / "numba-cache"))
    argv = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(argv, cwd=home, env=variables, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603


def test_no_file_is_written_and_no_socket_opened(pack: PinnedPack, tmp_path: Path) -> None:
    """onnxruntime left alone writes two files below the home folder when it is imported, and dials within a minute."""
    done = run(QUIET, tmp_path, str(pack.folder))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.rglob("*"))


def test_an_onnxruntime_that_was_imported_with_its_telemetry_on_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys, types\nfrom agency_node.errors import ConfigError\nsys.modules['onnxruntime'] = types.ModuleType('onnxruntime')\n"
        "try:\n    import agency_node.faces.onnx_models\nexcept ConfigError as error:\n    print(error)\n"
    )
    done = run(script, tmp_path)
    assert "imported before its telemetry was switched off: start again with ORT_DISABLE_TELEMETRY=1" in done.stdout, done.stderr


def test_without_the_extra_there_is_a_sentence(pack: PinnedPack, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nsys.modules['onnxruntime'] = None\nfrom agency_node.errors import ConfigError\n"
        "from agency_node.faces.embedder import load_embedder\nfrom agency_node.faces.pack import unverified_pin\nimport numpy as np\n"
        "embedder = load_embedder('insightface', unverified_pin(Path(sys.argv[1])))\n"
        "try:\n    embedder.faces(np.zeros((64, 64, 3), np.uint8))\nexcept ConfigError as error:\n    print(error)\n"
    )
    done = run(script.replace("= None", "= None; __import__('os').environ['ORT_DISABLE_TELEMETRY'] = '1'"), tmp_path, str(pack.folder))
    assert "pip install 'sealmatch[insightface]'" in done.stdout, done.stderr


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(folder: Path, photographs: Path, *more: str) -> tuple[int, str, str]:
    words = ["faces", "measure", str(folder), "--detection", DETECTION, "--recognition", RECOGNITION, "--name", "small"]
    done = CliRunner().invoke(app, [*words, "--licence", LICENCE, "--photographs", str(photographs), *more])
    return done.exit_code, done.stdout, done.stderr


def test_a_pack_is_measured_checked_and_used(tmp_path: Path) -> None:
    """Centre and spread are those of the faces; pack.json is never written over; a custodian's table is of the pack's model."""
    photographs = write_faces(tmp_path / "public", 100)
    (photographs / "none.png").write_bytes(encoded(np.full((320, 320, 3), 110, np.uint8)))
    (photographs / "notes.txt").write_bytes(b"no picture")
    folder = tmp_path / "pack"
    write_models(folder)
    code, said, _ = measure(folder, photographs, "--json")
    assert code == 0
    facts = json.loads(said)
    assert facts["measured_on_faces"] == 100
    pinned = PinnedPack(folder, facts["sha256"])
    embedder = load_embedder("insightface", pinned)
    assert embedder.model.model_hash.hex() == facts["model_hash"]
    found = np.array([embedder.faces(face_picture(person))[0].embedding for person in range(100)], np.float64)
    units = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs(embedder.model.centre - units.mean(axis=0)).max() < 1e-6
    widest = 1000 * embedder.model.centred_unit(found).std(axis=0).max() * np.sqrt(DIMENSIONS)
    assert widest * 1.1 <= embedder.model.spread_milli < widest * 1.1 + 50
    code, _, error = measure(folder, photographs)
    assert (code, "is there already" in error) == (2, True)
    checked = CliRunner().invoke(app, ["faces", "check", str(folder), "--sha256", facts["sha256"], "--json"])
    assert json.loads(checked.stdout) == facts
    shown = CliRunner().invoke(app, ["faces", "check", str(folder)]).stdout
    assert f'[face_pack]\nfolder = "{folder}"\nsha256 = "{facts["sha256"]}"' in shown
    words = ["calibration", "synthetic", str(tmp_path / "table.json"), "--embedder", "insightface", "--pack", str(folder), "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["model_hash"] == facts["model_hash"]
    flipped(folder / RECOGNITION)
    refused = CliRunner().invoke(app, ["faces", "check", str(folder)])
    assert (refused.exit_code, f"{RECOGNITION} is not the file" in refused.stderr) == (2, True)


def test_too_few_or_repeated_faces_make_no_pack(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    write_models(folder)
    photographs = write_faces(tmp_path / "public", 3)
    code, _, error = measure(folder, photographs)
    assert (code, "3 different pictures there show exactly one face: put 100 or more there" in error) == (2, True)
    for words, message in ((["--name", "Not A Name"], "(name)"), (["--detection", "../pack/det_small.onnx"], "(file)")):
        code, _, error = measure(folder, photographs, *words)
        assert (code, message in error) == (2, True)
    assert not (folder / PACK_FILE).exists()


def test_a_node_reads_its_pack_from_node_toml(pack: PinnedPack, tmp_path: Path) -> None:
    from agency_node.node import create_node, open_node  # noqa: PLC0415

    config = NodeConfig.checked(
        {
            "agency": "eastfield-pd",
            "mode": "test",
            "roles": ["requester"],
            "broker": "http://127.0.0.1:1",
            "root_fingerprint": "0f" * 32,
            "embedder": "insightface",
            "face_pack": {"folder": str(pack.folder), "sha256": pack.sha256},
        }
    )
    create_node(tmp_path / "node", config, witness=False)
    node = open_node(tmp_path / "node", lambda: datetime.now(UTC))
    assert node.config == config
    assert node.embedder().model.model_hash == load_embedder("insightface", pack).model.model_hash
