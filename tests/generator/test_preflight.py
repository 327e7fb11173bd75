"""Preflight: everything missing at once, within seconds, whatever the network does."""

import os
import pickle
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.data import hub
from src.data.files import ROOT
from src.data.prompts import Prompt
from src.protocol import ErrorBody, Limits, VerifierInfo, VerifierList
from src.runs import preflight
from src.runs.ending import Exit
from src.runs.records import RunFolderError
from src.runs.settings import AUTO, PROFILE_JUDGES, Settings
from tests.hub_server import HubServer, hub_server

MUSICGEN = "facebook/musicgen-small"
WHOLE_MODEL = ("state_dict.bin", "compression_state_dict.bin")
WHOLE_ENCODER = ("config.json", "spiece.model", "model.safetensors")
TABLE = str(ROOT / "builtin" / "prompts.csv")


@pytest.fixture(autouse=True)
def _nothing_cached_and_nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "AUDIOCRAFT_CACHE_DIR")
    for name in (*unset, *hub.TRANSFORMERS_CACHES, "CURATOR_TOKEN", "CURATOR_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub, which may be asked, and a verifier server at the same address."""
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield server


def cache(name: str, files: tuple[str, ...], within: Path | None = None) -> Path:
    """A repository in the hub's cache, or another's; its folder of files."""
    folder = hub.repository_folder(name, within or hub.hub_cache())
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in files:
        if file in WHOLE_MODEL:
            export(snapshot / file)
        else:
            (snapshot / file).touch()
    return snapshot


def export(path: Path, **holds: Any) -> None:
    """A file as audiocraft exports it, but for the tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(holds or {"xp.cfg": "{}"}, protocol=2))


def look(
    verifier: str = "perplexity",
    judges: tuple[str, ...] | None = (),
    known: tuple[Prompt, ...] | None = None,
    decodes: bool = True,
    **changes: Any,
) -> preflight.Ready:
    """For one prompt on the built-in model, selected by a likelihood, without judges."""
    settings = Settings(**{"model": "builtin", "prompts": "a piano"} | changes)
    return preflight.look(
        settings, (verifier,), judges, selector=verifier, prompts=known, decodes=decodes
    )


def missing(**changes: Any) -> list[str]:
    """What is missing, as one text each."""
    return [preflight.message([item]) for item in look(**changes).missing]


def test_everything_missing_is_listed_at_once_with_source_licence_and_remedy() -> None:
    text = preflight.message(
        look(model=MUSICGEN, verifier="clap", prompts="musiccaps", judges=None).missing
    )
    for part in (
        "6 things are missing",
        "MusicGen facebook/musicgen-small: state_dict.bin (facebook/musicgen-small), compression_",
        "https://huggingface.co/facebook/musicgen-small; licence CC-BY-NC 4.0",
        "t5-base",
        "hf download",
        "the table of MusicCaps",
        "CC-BY-SA 4.0",
        "judge kld_pq",
        "--fetch kld_pq",
        "http://127.0.0.1:8000",
        "verifier_server.py",
        "music_audioset_epoch_15_esc_90.14.pt",
        "--profile builtin --server auto --verifier tags",
    ):
        assert part in text


def test_a_cached_model_needs_no_network_and_keeps_libraries_off_it(online: HubServer) -> None:
    cache(MUSICGEN, WHOLE_MODEL)
    cache("t5-base", WHOLE_ENCODER)
    ready = look(model=MUSICGEN)
    assert ready.missing == []
    assert [p.text for p in ready.prompts] == ["a piano"]
    assert online.requests == []
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_a_cached_codec_alone_needs_no_text_encoder() -> None:
    cache(MUSICGEN, WHOLE_MODEL)
    assert missing(model=MUSICGEN, decodes=False) == []


def test_a_half_cached_model_is_missing_its_other_half() -> None:
    cache(MUSICGEN, WHOLE_MODEL[:1])
    cache("t5-base", ("config.json", "spiece.model", "pytorch_model.bin"))
    (text,) = missing(model=MUSICGEN)
    assert "MusicGen facebook/musicgen-small: compression_state_dict.bin (" in text
    assert f"HF_HUB_OFFLINE is set, and {hub.hub_cache()}" in text


def test_what_the_hub_can_give_is_not_missing_and_a_name_that_it_does_not_know_is(
    online: HubServer,
) -> None:
    online.files = {f"{MUSICGEN}/state_dict.bin": b"", "t5-base/config.json": b""}
    assert missing(model=MUSICGEN) == []
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    (text,) = missing(model="facebook/musicgen-smal")
    assert "has no public model of that name" in text


def test_a_network_that_swallows_everything_costs_seconds_only(
    online: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        start = time.monotonic()
        texts = missing(model=MUSICGEN, verifier="tags", server=(address,))
        assert time.monotonic() - start < 3
    assert len(texts) == 3
    assert all("cannot be reached" in text for text in texts[:2])
    assert "did not answer within 0.3 s" in texts[2]


def test_a_local_folder_is_looked_into(tmp_path: Path) -> None:
    assert "neither 'builtin', nor a hub name" in missing(model="no-such-thing")[0]
    folder = tmp_path / "mine"
    folder.mkdir()
    cache("t5-base", WHOLE_ENCODER)
    (text,) = missing(model=str(folder))
    assert f"MusicGen {folder}: state_dict.bin (an audiocraft export" in text
    assert "put both files of one model into the folder" in text
    for file in WHOLE_MODEL:
        export(folder / file)
    assert missing(model=str(folder)) == []


def hosting(online: HubServer, **states: Any) -> str:
    """The address of a verifier server with these verifiers."""
    infos = [
        VerifierInfo(name=name, state=state, sample_rate=16_000, needs_text=True)
        for name, state in states.items()
    ]
    listing = VerifierList(verifiers=infos, limits=Limits())
    online.files["verifiers"] = listing.model_dump_json().encode()
    return online.url


def test_verifiers_that_select_or_judge_must_be_on_the_server(online: HubServer) -> None:
    url = hosting(online, tags="ready", tags_msd="loading")
    assert missing(verifier="tags+tags_msd+perplexity", server=(url,)) == []
    (text,) = missing(verifier="tags_vgg", server=(url,))
    assert "it hosts tags, tags_msd. Start it with --models tags_vgg" in text
    assert text.endswith("choose another --verifier")
    assert look(verifier="tags", server=(url,), judges=("tags_msd",)).judges == ("tags_msd",)
    (text,) = missing(verifier="tags", server=(url,), judges=("tags_msd", "clap"))
    assert "verifier clap on the server" in text
    assert "Start it with --models tags tags_msd clap, or choose another --judges" in text


def test_a_server_that_wants_a_token_or_is_none_says_so(online: HubServer) -> None:
    online.files["verifiers"] = b"<html>"
    (text,) = missing(verifier="tags", server=(online.url,))
    assert "a verifier server at" in text
    body = ErrorBody(error="unauthorized", message="no", request_id="1")
    online.refused["verifiers"] = 401
    online.swapped["verifiers"] = body.model_dump_json().encode()
    (text,) = missing(verifier="tags", server=(online.url,))
    assert "set CURATOR_TOKEN" in text


def test_an_unknown_verifier_or_judge_lists_those_there_are() -> None:
    assert "'0.5*' is not a verifier" in missing(verifier="0.5*")[0]
    (text,) = missing(verifier="clapp", server=AUTO)
    assert "verifier clapp" in text
    assert "there are clap, quality, muq, imagebind, tags" in text
    (text,) = missing(judges=("kld",))
    assert "judge(s) kld" in text
    assert "msd_kld" in text


def test_a_medoid_of_a_verifier_without_embeddings_is_told_of_those_with_one() -> None:
    (text,) = missing(verifier="medoid(quality)")
    assert "embeddings for medoid(quality)" in text
    assert "take the medoid of clap, muq, imagebind, tags, tags_vgg" in text
    assert missing(verifier="medoid(tags)", server=AUTO) == []


def test_weights_that_a_server_of_this_run_would_lack_are_listed_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(verifier: str) -> list[str]:
        texts = missing(verifier=verifier, server=AUTO)
        return [text for text in texts if "verifier environment" not in text]

    clap, muq = of("clap+muq+tags")
    assert "verifier clap: music_audioset_epoch_15_esc_90.14.pt (2.4 GB, lukewys/" in clap
    assert "vocab.json (1 MB, roberta-base)" in clap
    assert "from: https://huggingface.co/lukewys/laion_clap, https://huggingface.co/rob" in clap
    assert "do:   envs/verifier/.venv/bin/python verifier_server.py --fetch clap\n" in clap
    assert "licence CC-BY-NC 4.0 (no commercial use)" in muq
    monkeypatch.setenv("CURATOR_WEIGHTS", str(tmp_path))
    (tmp_path / "checkpoint.pt").touch()
    (imagebind,) = of("quality+imagebind")
    assert "verifier imagebind: imagebind_huge.pth (4.8 GB" in imagebind
    assert f"--fetch imagebind --weights_dir {tmp_path}" in imagebind


def test_weights_of_judges_are_missing_once_for_each_network_with_the_command() -> None:
    passt, clap = missing(judges=("kld_pq", "kld_qp", "clap_score", "mtt_vgg"), prompts=TABLE)
    assert "judge kld_pq, kld_qp: passt" in passt
    assert "--fetch kld_pq" in passt
    assert "judge clap_score: music_audioset_epoch_15_esc_90.14.pt (2.4 GB" in clap
    assert "--judges none" in clap


def test_judges_that_need_references_are_missing_them_when_no_prompt_has_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p.csv").write_text("id,caption,path\na,x,a.ogg\nb,y,b.ogg\n")
    (text,) = missing(prompts="p.csv", judges=("msd_kld", "mtt_vgg"))
    assert "reference audio for msd_kld: no prompt has any" in text
    assert missing(prompts="p.csv", judges=("mtt_vgg",)) == []
    (tmp_path / "a.ogg").touch()
    assert missing(prompts="p.csv", judges=("msd_kld",)) == []
    assert "1 of 2 prompts have no reference audio for msd_kld" in caplog.text


def test_default_judges_are_those_that_say_something_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p.csv").write_text("id,caption,path\na,x,a.ogg\n")
    ready = look(profile="builtin", judges=None, prompts="p.csv")
    assert (ready.judges, ready.missing) == (("mtt_vgg",), [])
    assert "msd_kld (no prompt has reference audio)" in caplog.text
    (tmp_path / "a.ogg").touch()
    ready = look(profile="builtin", judges=None, prompts="p.csv")
    assert ready.judges == PROFILE_JUDGES["builtin"]
    three = ("kld_pq_contrast", "kld_pq", "kld_pq_wrong")
    assert look(judges=None, prompts=TABLE).judges == (*three, "clap_score")
    assert look(judges=None).judges == ("clap_score",)
    selected = look(judges=None, prompts=TABLE, verifier="clap+perplexity", server=AUTO)
    assert selected.judges == three
    assert "clap_score (its number is that of clap, which selects)" in caplog.text


def test_a_judge_by_the_name_of_the_selector_is_left_to_the_selectors_column(
    online: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = hosting(online, tags="ready", clap="ready")
    ready = look(verifier="clap", server=(url,), judges=("clap", "tags"))
    assert (ready.judges, ready.missing) == (("tags",), [])
    assert "clap selects: its own number is shown as the selector's" in caplog.text


def test_prompts_are_read_and_cut_to_what_is_asked_unless_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "music_data").mkdir()
    rows = "\n".join(f"-id{n},caption {n},{n % 2 == 0}" for n in range(6))
    table = tmp_path / "music_data" / "musiccaps.csv"
    table.write_text(f"ytid,caption,is_balanced_subset\n{rows}\n")
    ready = look(prompts="musiccaps", subset="balanced", num_samples=2)
    assert [p.id for p in ready.prompts] == ["-id0", "-id2"]
    (text,) = missing(prompts="musiccaps", referenced=True)
    assert "no prompt of music_data/musiccaps.csv is with its reference audio there" in text
    known = (Prompt(id="a", text="a piano", key="k"),)
    ready = look(prompts="gone.csv", known=known)
    assert (ready.prompts, ready.missing) == (known, [])


def test_a_results_folder_that_cannot_be_written_is_listed_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    *_, text = missing(output=Path("file/results"), prompts="gone.csv")
    assert "a folder to write to: file/results" in text
    assert "file is not a folder" in text
    with pytest.raises(RunFolderError, match="file is not a folder: choose another --output"):
        look(output=Path("file/results"))
    assert missing(output=Path("a/b")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        ("benchmark.py", "generator"),
        ("download_data.py", "downloader"),
        ("verifier_server.py", "verifier"),
    ],
)
def test_another_python_is_told_which_environment_to_use(script: str, environment: str) -> None:
    """-S: without any installed package."""
    run = subprocess.run(
        [sys.executable, "-S", "-s", "-E", str(ROOT / script)], capture_output=True, text=True
    )
    assert run.returncode == Exit.MISSING
    assert f"envs/{environment}/.venv/bin/python {script}" in run.stderr


def test_torch_is_not_imported_to_find_out_what_is_missing() -> None:
    code = (
        "import sys, benchmark; code = benchmark.main(['--verifier', 'clap']);"
        "sys.exit(code + 100 * ('torch' in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == Exit.MISSING, run.stderr
