"""--check compares files, manifest and table, without a network."""

import soundfile

from tests.downloader.conftest import Downloads


def three_clips(downloads: Downloads, audio: bytes) -> None:
    downloads.table(("a", 1, 3), ("b", 1, 3), ("gone", 1, 3))
    downloads.host(audio, "a", "b")
    downloads.run()
    downloads.media.requests.clear()


def test_whole_files_are_good_and_what_was_never_had_is_summed_up(
    downloads: Downloads, sources: dict[str, bytes]
) -> None:
    three_clips(downloads, sources["webm"])
    code, output, _ = downloads.run("--check")
    assert code == 1
    assert "2 of 3 clips" in output
    assert "gone" in output
    assert downloads.run("--check", "--limit", 2)[0] == 0
    assert downloads.media.requests == []


def test_damaged_missing_wrong_and_unlisted_files_are_named_and_fetched_again(
    downloads: Downloads, sources: dict[str, bytes]
) -> None:
    names = ("damaged", "missing", "wrong")
    downloads.table(*((name, 1, 3) for name in names))
    downloads.host(sources["webm"], *names)
    assert downloads.run()[0] == 0
    folder = downloads.data_dir
    data = bytearray((folder / "damaged.wav").read_bytes())
    data[5000] ^= 1
    (folder / "damaged.wav").write_bytes(data)
    (folder / "missing.wav").unlink()
    samples, rate = soundfile.read(folder / "wrong.wav")
    soundfile.write(folder / "wrong.wav", samples[: rate // 2], rate)
    (folder / "strange.wav").write_bytes(b"x")
    code, output, _ = downloads.run("--check")
    assert code == 1
    assert "damaged.wav: damaged" in output
    assert "missing.wav: missing" in output
    assert "wrong.wav: wrong: it lasts 0.50 s, not 2 s" in output
    assert "strange.wav: unlisted" in output
    assert "0 of 3 clips" in output
    assert downloads.run()[0] == 0
    (folder / "strange.wav").unlink()
    assert downloads.run("--check")[0] == 0


def test_a_check_before_any_download_says_that_nothing_is_there(downloads: Downloads) -> None:
    downloads.table(("a", 1, 3))
    code, output, _ = downloads.run("--check")
    assert code == 1
    assert "0 of 1 clips" in output
