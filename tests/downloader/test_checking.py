"""--check compares files, manifest and table, without a network."""

from tests.downloader.conftest import Downloads


def test_whole_files_are_good_and_what_was_never_had_is_summed_up(downloads: Downloads) -> None:
    downloads.offer("a", "b", absent=["lost"])
    code, output, _ = downloads.run("--check")
    assert (code, "0 of 3 clips" in output) == (1, True)
    downloads.run()
    downloads.media.requests.clear()
    code, output, _ = downloads.run("--check")
    assert code == 1
    assert "2 of 3 clips" in output
    assert "gone: removed" in output
    assert "HTTP Error 404" in output
    assert downloads.run("--check", "--limit", 2)[0] == 0
    assert downloads.media.requests == []


def test_damaged_missing_and_unlisted_files_are_named_and_fetched_again(
    downloads: Downloads,
) -> None:
    downloads.offer("damaged", "missing")
    assert downloads.run()[0] == 0
    folder = downloads.data_dir
    data = bytearray((folder / "damaged.wav").read_bytes())
    data[5000] ^= 1
    (folder / "damaged.wav").write_bytes(data)
    (folder / "missing.wav").unlink()
    (folder / "strange.wav").write_bytes(b"x")
    code, output, _ = downloads.run("--check")
    assert code == 1
    faults = ("damaged.wav: damaged", "missing.wav: missing", "strange.wav: unlisted")
    assert all(said in output for said in (*faults, "0 of 2 clips"))
    assert downloads.run()[0] == 0
    (folder / "strange.wav").unlink()
    assert downloads.run("--check")[0] == 0
