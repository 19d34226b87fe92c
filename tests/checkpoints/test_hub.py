"""Models by hub id: fetched once, resumed, verified, and refused in one line; against a hub on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dkv
from dkv.checkpoints.hub import Hub, find_directory
from dkv.errors import CheckpointError, HubError
from tests.support.checkpoints import write_checkpoint, write_tokenizer
from tests.support.hub import COMMIT, REPO, FakeHub, fake_hub
from tests.support.terminal import in_terminal
from tests.support.warm import program

FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's files: what is wanted, and what must never be fetched."""
    directory = write_tokenizer(write_checkpoint(tmp_path_factory.mktemp("published"), shards=2))
    for unwanted in ("modeling_llada.py", "pytorch_model.bin", "README.md", "training.pt"):
        (directory / unwanted).write_text("never fetched", encoding="utf-8")
    return directory


@pytest.fixture
def served(published: Path) -> Iterator[FakeHub]:
    with fake_hub(published) as hub:
        yield hub


def client(served: FakeHub, tmp_path: Path) -> Hub:
    return Hub(served.endpoint, tmp_path / "hub")


def blobs(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.glob("hub/models--*/blobs/*")}


def test_a_model_is_fetched_and_loads(served: FakeHub, tmp_path: Path, published: Path) -> None:
    directory = client(served, tmp_path).directory(REPO)
    unwanted = {"modeling_llada.py", "pytorch_model.bin", "README.md", "training.pt"}
    assert {path.name for path in directory.iterdir()} == {path.name for path in published.iterdir()} - unwanted
    assert all(path.read_bytes() == (published / path.name).read_bytes() for path in directory.iterdir())
    remote, local = (dkv.load(place, device="cpu", dtype="float32") for place in (directory, published))
    one, other = (lm.generate("hello", gen_length=8, cache="none")[0].token_ids for lm in (remote, local))
    assert one == other
    assert not [line for line in served.log if line.endswith((".py", ".bin", ".md", ".pt"))]
    assert len(served.requests("GET /" + REPO)) == len(list(directory.iterdir()))  # each file once


def test_the_second_time_asks_nothing(served: FakeHub, tmp_path: Path) -> None:
    first = client(served, tmp_path).directory(REPO)
    served.log.clear()
    assert client(served, tmp_path).directory(REPO) == first
    assert client(served, tmp_path).directory(f"{REPO}@main") == first
    assert client(served, tmp_path).directory(f"{REPO}@{COMMIT}") == first
    assert served.log == []


def test_a_cut_connection_goes_on_where_it_stopped(served: FakeHub, tmp_path: Path, published: Path) -> None:
    served.cut[FIRST] = 5500
    directory = client(served, tmp_path).directory(REPO)
    assert (directory / FIRST).read_bytes() == (published / FIRST).read_bytes()
    assert served.requests(f"GET /{REPO}/resolve/{COMMIT}/{FIRST}")[1:] == [
        f"GET /{REPO}/resolve/{COMMIT}/{FIRST} bytes=5500-"
    ]


def test_a_stopped_process_goes_on_where_it_stopped(served: FakeHub, tmp_path: Path) -> None:
    part = tmp_path / f"hub/models--{REPO.replace('/', '--')}/blobs/{served.etag(FIRST)}.dkv.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(served.files[FIRST][:7000])
    directory = client(served, tmp_path).directory(REPO)
    assert (directory / FIRST).read_bytes() == served.files[FIRST]
    assert served.requests(f"GET /{REPO}/resolve/{COMMIT}/{FIRST}") == [
        f"GET /{REPO}/resolve/{COMMIT}/{FIRST} bytes=7000-"
    ]
    assert not part.exists()


def test_the_content_network_gets_the_range_but_no_token(
    served: FakeHub, tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with fake_hub(published) as network:
        served.elsewhere = network.endpoint
        network.cut[FIRST] = 5500
        directory = client(served, tmp_path).directory(REPO)
    assert (directory / FIRST).read_bytes() == served.files[FIRST]
    assert served.tokens == {"Bearer hf_secret"}
    assert network.tokens == {None}
    assert f"GET /{REPO}/resolve/{COMMIT}/{FIRST} bytes=5500-" in network.log


def test_two_at_once_fetch_each_file_once(served: FakeHub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(client(served, tmp_path).directory, [REPO, REPO])
    assert one == other
    fetched = served.requests(f"GET /{REPO}/resolve")
    assert len(fetched) == len(set(fetched))


@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_damaged_file_is_refused_and_removed(name: str, served: FakeHub, tmp_path: Path) -> None:
    served.damaged.add(name)
    with pytest.raises(HubError, match=f"{name} arrived damaged .wrong checksum. and was removed; load it again"):
        client(served, tmp_path).directory(REPO)
    assert served.etag(name) not in blobs(tmp_path)
    assert not [blob for blob in blobs(tmp_path) if "incomplete" in blob]
    served.damaged.clear()
    assert (client(served, tmp_path).directory(REPO) / name).read_bytes() == served.files[name]


def test_a_file_that_is_too_long_starts_again(served: FakeHub, tmp_path: Path) -> None:
    part = tmp_path / f"hub/models--{REPO.replace('/', '--')}/blobs/{served.etag(FIRST)}.dkv.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(served.files[FIRST] + b"more")
    assert (client(served, tmp_path).directory(REPO) / FIRST).read_bytes() == served.files[FIRST]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((401, "GatedRepo"), "is gated on the hub .401.; accept its terms on its page and log in"),
        ((403, "GatedRepo"), "is gated on the hub .403.; accept its terms"),
        ((401, "RepoNotFound"), "neither a directory nor a repository on the hub .401.; if it is private, log in"),
        ((404, "RepoNotFound"), "neither a directory nor a repository on the hub .404."),
        ((401, ""), "the hub refuses access .401.; log in"),
        ((403, ""), "the hub refuses access .403.; log in"),
        ((418, ""), "the hub answered with status 418; try again later"),
    ],
)
def test_refusals_of_the_hub(status: tuple[int, str], message: str, served: FakeHub, tmp_path: Path) -> None:
    served.status = status
    with pytest.raises(HubError, match=f"model='{REPO}': {message}") as caught:
        client(served, tmp_path).directory(REPO)
    assert "\n" not in str(caught.value)
    assert blobs(tmp_path) == set()


def test_other_repositories_and_revisions_are_not_there(served: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="model='no/such': neither a directory nor a repository on the hub"):
        client(served, tmp_path).directory("no/such")
    with pytest.raises(HubError, match=r"the hub has no such revision .404."):
        client(served, tmp_path).directory(f"{REPO}@nightly")


def test_a_repository_without_a_config_is_no_model(served: FakeHub, tmp_path: Path) -> None:
    del served.files["config.json"]
    with pytest.raises(HubError, match=r"holds no config\.json"):
        client(served, tmp_path).directory(REPO)


def test_a_full_disk_is_named_before_anything_is_fetched(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(HubError, match=r"needs [0-9]+ bytes, .* has 10; free some, or set HF_HOME"):
        client(served, tmp_path).directory(REPO)
    assert served.requests("GET /" + REPO) == []


def test_an_incomplete_snapshot_is_completed(served: FakeHub, tmp_path: Path) -> None:
    directory = client(served, tmp_path).directory(REPO)
    (directory / FIRST).unlink()
    assert (client(served, tmp_path).directory(REPO) / FIRST).read_bytes() == served.files[FIRST]


def test_peeking_fetches_no_weights(served: FakeHub, tmp_path: Path) -> None:
    peeked = client(served, tmp_path).peek(REPO)
    directory, stored = peeked.directory, peeked.stored
    assert not list(directory.glob("*.safetensors"))
    assert stored["model.transformer.wte.weight"].shape == (272, 32)
    assert {tensor.dtype for tensor in stored.values()} == {"F32"}
    assert len(stored) == 2 * 9 + 3
    assert list((client(served, tmp_path).directory(REPO)).glob("*.safetensors"))  # and loading still fetches them


@pytest.mark.parametrize("model", ["a--b/c", "a/b..c"])
def test_ids_that_the_client_refuses(model: str, served: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="cannot be fetched from the hub"):
        client(served, tmp_path).directory(model)


def test_a_damaged_index_is_named(served: FakeHub, tmp_path: Path) -> None:
    served.files["model.safetensors.index.json"] = b'{"weight_map": []}'
    for _ in range(2):  # fetched, then from the cache
        with pytest.raises(CheckpointError, match="has no weight_map of file names"):
            client(served, tmp_path).peek(REPO)


@pytest.mark.parametrize("model", ["", "x", "a\0b", "/no/such", "./no/such", "a/b/c", "a/b@", "a b/c", "-a/b", "../b"])
def test_what_is_neither_a_directory_nor_an_id(model: str) -> None:
    with pytest.raises(CheckpointError, match="no such directory; give 'tiny', a checkpoint directory or a hub id"):
        find_directory(model)


def test_a_path_is_never_an_id() -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        find_directory(Path("no/such"))


def test_a_directory_wins_over_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_directory(REPO) == Path(REPO)


def generate(model: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`dkv generate` in a process of its own, whose hub is what the environment says."""
    common = {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [*program(), "generate", "hi", "--model", model, "--gen-length", "4", "--seed", "1"],
        capture_output=True, text=True, env={**os.environ, **common, **environment}, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_line_follows_the_environment(served: FakeHub, tmp_path: Path) -> None:
    first = generate(REPO, tmp_path, HF_ENDPOINT=served.endpoint)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("\n") == 1  # the summary: no progress bar without a terminal
    offline = generate(REPO, tmp_path, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, first.stdout)


def test_inspecting_fetches_headers_only(served: FakeHub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": served.endpoint}
    command = [*program(), "inspect", REPO, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    assert (found["weights"]["tensors"], found["problems"], found["template"]) == (21, [], True)
    weights = [line for line in served.requests("GET") if ".safetensors" in line and "index" not in line]
    assert len(weights) == 2
    assert all(line.endswith(" bytes=0-100000") for line in weights)


def test_a_terminal_shows_a_progress_bar(served: FakeHub, tmp_path: Path) -> None:
    common = {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": served.endpoint}
    code, written = in_terminal(["generate", "hi", "--model", REPO, "--gen-length", "4"], None, **common)
    assert code == 0
    assert FIRST.encode() + b": 100%" in written


def test_offline_without_a_copy_is_one_line(tmp_path: Path) -> None:
    ended = generate(REPO, tmp_path, HF_HUB_OFFLINE="1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        ended.stderr
        == f"error: model='{REPO}': is not in the cache, and HF_HUB_OFFLINE is set; unset it to fetch the model\n"
    )


def test_no_connection_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    ended = generate(REPO, tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: model='{REPO}': cannot be fetched from the hub (")
    assert ended.stderr.count("\n") == 1


def by_another_program(tmp_path: Path, published: Path, *names: str) -> Path:
    """A snapshot in the cache with some of the files, as other clients leave it."""
    folder = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    place = folder / "snapshots" / COMMIT
    for directory in (folder / "blobs", folder / "refs", place):
        directory.mkdir(parents=True, exist_ok=True)
    (folder / "refs/main").write_text(COMMIT)
    for name in names:
        shutil.copy(published / name, folder / "blobs" / f"of-{name}")
        (place / name).symlink_to(f"../../blobs/of-{name}")
    return place


INDEX, SECOND = "model.safetensors.index.json", "model-00002-of-00002.safetensors"
WEIGHTS = ("config.json", INDEX, FIRST, SECOND)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "names",
    [
        WEIGHTS,
        (*WEIGHTS, "tokenizer.json"),
        ("config.json", FIRST),
        ("config.json", FIRST, SECOND),
        ("config.json", INDEX, FIRST, *TOKENIZER),
        ("config.json",),
        ("config.json", INDEX, *TOKENIZER),
        (*WEIGHTS, *TOKENIZER),
        (),
    ],
)
def test_what_another_program_fetched_in_part_is_completed(
    names: tuple[str, ...], served: FakeHub, tmp_path: Path, published: Path
) -> None:
    by_another_program(tmp_path, published, *names)
    (served.files["generation_config.json"], served.files["chat_template.jinja"]) = b"{}", b"{{ messages }}"
    directory = client(served, tmp_path).directory(REPO)
    assert {p.name for p in directory.iterdir()} == {
        *WEIGHTS, *TOKENIZER, "generation_config.json", "chat_template.jinja"
    }  # fmt: skip
    lm = dkv.load(directory, device="cpu", dtype="float32")
    assert lm.tokenizer is not None
    served.log.clear()
    assert client(served, tmp_path).directory(REPO) == directory
    assert served.log == []


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (WEIGHTS, "tokenizer_config.json, tokenizer.json"),
        (("config.json", FIRST, *TOKENIZER), "weights"),
        (("config.json", INDEX, FIRST, *TOKENIZER), "weights"),
        ((INDEX, FIRST, SECOND, *TOKENIZER), "config.json"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_offline_what_is_lacking_is_said_with_the_way_to_fetch_it(
    names: tuple[str, ...], lacking: str, served: FakeHub, tmp_path: Path, published: Path
) -> None:
    place = by_another_program(tmp_path, published, *names)
    for ask in (client(served, tmp_path).directory, client(served, tmp_path).peek):
        with pytest.raises(HubError) as caught:
            ask(REPO)
        assert str(caught.value) == (
            f"model='{REPO}': its snapshot in the cache lacks {lacking}, and the hub cannot be asked "
            f"(HF_HUB_OFFLINE is set); fetch it by `hf download {REPO}`, or give '{place}' to load it as it is"
        )


def test_offline_a_snapshot_that_lacks_what_the_repository_declares_is_said(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = client(served, tmp_path).directory(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert client(served, tmp_path).directory(REPO) == directory
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(HubError, match=r"lacks tokenizer_config\.json, and the hub cannot be asked"):
        client(served, tmp_path).directory(REPO)


@pytest.mark.usefixtures("offline")
def test_offline_a_snapshot_of_another_program_that_lacks_nothing_visible_is_used(
    served: FakeHub, tmp_path: Path, published: Path
) -> None:
    place = by_another_program(tmp_path, published, *WEIGHTS, *TOKENIZER)
    assert client(served, tmp_path).directory(REPO) == place
    assert client(served, tmp_path).peek(REPO).directory == place
    assert served.log == []


def test_so_it_is_without_a_connection(tmp_path: Path, published: Path) -> None:
    place = by_another_program(tmp_path, published, *WEIGHTS, *TOKENIZER)
    assert Hub("http://127.0.0.1:1", tmp_path / "hub").directory(REPO) == place


def test_a_link_to_nothing_in_the_cache_is_fetched_again(served: FakeHub, tmp_path: Path) -> None:
    directory = client(served, tmp_path).directory(REPO)
    (directory / FIRST).resolve().unlink()
    assert (client(served, tmp_path).directory(REPO) / FIRST).read_bytes() == served.files[FIRST]


def test_a_blob_that_was_cut_is_fetched_again(served: FakeHub, tmp_path: Path) -> None:
    directory = client(served, tmp_path).directory(REPO)
    blob = (directory / FIRST).resolve()
    (directory / FIRST).unlink()
    os.truncate(blob, 100)
    assert (client(served, tmp_path).directory(REPO) / FIRST).read_bytes() == served.files[FIRST]


def test_only_the_files_that_are_the_model_are_fetched(served: FakeHub, tmp_path: Path) -> None:
    for name in ("model_ema.safetensors", "original/consolidated.safetensors", "onnx/model.onnx", "tokenizer/x.json"):
        served.files[name] = b"never fetched"
    directory = client(served, tmp_path).directory(REPO)
    assert {p.name for p in directory.iterdir()} == {*WEIGHTS, *TOKENIZER}
    assert not [
        line for line in served.requests("GET /" + REPO) if "ema" in line or "original" in line or "onnx" in line
    ]


def test_every_file_that_a_chat_depends_on_is_fetched_and_no_code(served: FakeHub, tmp_path: Path) -> None:
    wanted = ("chat_template.json", "additional_chat_templates/default.jinja", "tokenizer.model")
    for name in (
        *wanted,
        "tokenizer.py",
        "tokenizer.pkl",
        "additional_chat_templates/x.py",
        "../up.json",
        "a/../b.json",
    ):
        served.files[name] = b"{}"
    directory = client(served, tmp_path).directory(REPO)
    found = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    assert found == {*WEIGHTS, *TOKENIZER, *wanted}
    assert all((directory / name).read_bytes() == b"{}" for name in wanted)
    served.log.clear()
    assert client(served, tmp_path).directory(REPO) == directory
    assert served.log == []


def test_the_single_file_of_a_repository_is_the_model(served: FakeHub, tmp_path: Path) -> None:
    """Its index and the shards are of before, and neither fetched nor looked into."""
    served.files["model.safetensors"] = served.files[FIRST]
    directory = client(served, tmp_path).directory(REPO)
    assert {p.name for p in directory.glob("*.safetensors*")} == {"model.safetensors"}
    peeked = Hub(served.endpoint, tmp_path / "other").peek(REPO)
    assert {tensor.path.name for tensor in peeked.stored.values()} == {"model.safetensors"}
    assert peeked.files is not None
    assert set(peeked.files.ignored) >= {FIRST, SECOND, INDEX}


def test_an_index_that_names_what_the_repository_has_not(served: FakeHub, tmp_path: Path) -> None:
    del served.files[SECOND]
    with pytest.raises(CheckpointError, match=f"model='{REPO}': {SECOND} is missing, which {INDEX} names"):
        client(served, tmp_path).directory(REPO)
    assert not served.requests(f"GET /{REPO}/resolve/{COMMIT}/{FIRST}")


@pytest.mark.parametrize("model", [f"{REPO}@../../x", f"{REPO}@a/../../../b"])
def test_a_revision_leads_nowhere_else(model: str, served: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no hub id"):
        client(served, tmp_path).directory(model)


def test_other_programs_find_what_was_fetched(served: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    directory = client(served, tmp_path).directory(REPO)
    cache = str(tmp_path / "hub")
    assert Path(snapshot_download(REPO, cache_dir=cache, local_files_only=True)) == directory
    assert Path(hf_hub_download(REPO, FIRST, cache_dir=cache, local_files_only=True)).parent == directory
