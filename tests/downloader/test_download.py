"""download_data.py end to end: real audio from a local host, read by yt-dlp and ffmpeg."""

import hashlib

import numpy as np
import pytest
import soundfile

from tests.downloader.conftest import Downloads, frequency


def change_at(samples: np.ndarray, rate: int, before: int, after: int) -> float:
    """Seconds at which the tone goes from one frequency (Hz) to another, to about a millisecond.

    The two correlations with 10 ms of each tone cross where the tone changes.
    """
    width = rate // 100
    times = np.arange(width) / rate
    strength = []
    for tone in (before, after):
        wave = np.exp(-2j * np.pi * tone * times)
        strength.append(np.abs(np.convolve(samples, wave[::-1].conj(), mode="valid")))
    crossed = np.flatnonzero(strength[1] > strength[0])
    return float(crossed[0] + width / 2) / rate


@pytest.mark.parametrize("ending", ["webm", "m4a", "wav"])
def test_a_clip_is_its_section_to_milliseconds(downloads: Downloads, ending: str) -> None:
    downloads.ending = ending
    downloads.table(("plain", 11.5, 21.5), ("-begins_so", 0, 10))
    downloads.host("plain", "-begins_so")
    code, output, _ = downloads.run()
    assert code == 0, output
    assert "2 of 2 clips" in output
    samples, rate = soundfile.read(downloads.data_dir / "plain.wav")
    assert (rate, samples.shape) == (32000, (320000, 2))
    assert soundfile.info(downloads.data_dir / "plain.wav").subtype == "PCM_16"
    for second in (0, 8):  # the tone of second 12 begins half a second into the clip
        window = samples[second * rate : (second + 1) * rate, 0]
        changed = change_at(window, rate, frequency(11 + second), frequency(12 + second))
        assert changed == pytest.approx(0.5, abs=0.004)
    left, right = np.sqrt((samples**2).mean(axis=0))
    assert right / left == pytest.approx(0.5, abs=0.02)
    row = downloads.rows()["plain"]
    data = (downloads.data_dir / "plain.wav").read_bytes()
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert (row["duration"], row["sample_rate"], row["channels"]) == (10.0, 32000, 2)
    assert {"date", "yt_dlp", "source"} <= set(row)
    first, _ = soundfile.read(downloads.data_dir / "-begins_so.wav")
    assert change_at(first[:, 0], 32000, frequency(0), frequency(1)) == pytest.approx(1, abs=0.004)


def test_a_dry_run_counts_what_is_left_and_fetches_nothing(downloads: Downloads) -> None:
    downloads.table(("a", 1, 11), ("b", 1, 11), ("lost", 1, 11))
    downloads.host("a")
    downloads.run("--limit", 1)
    code, output, _ = downloads.run("--dry_run", "--rate_limit", 2)
    assert code == 0
    left = "2 of 3 clips to fetch: 1.3 MB, or 2.6 in stereo; at least 1 minutes at --rate_limit 2"
    assert left in output
    assert downloads.wavs() == ["a.wav"]
    assert set(downloads.rows()) == {"a"}
    downloads.host("b")
    downloads.run("--limit", 3)  # one is gone
    assert "0 of 3 clips to fetch" in downloads.run("--dry_run")[1]
    assert "1 of 3 clips to fetch" in downloads.run("--dry_run", "--retry")[1]


def test_little_more_than_the_section_is_transferred(downloads: Downloads) -> None:
    downloads.ending = "wav"
    downloads.table(("a", 25, 27))
    downloads.host("a")
    downloads.media.paced = 0.01  # else all of it fits into the buffers of the sockets
    assert downloads.run()[0] == 0
    assert downloads.media.bytes_sent["a.wav"] < len(downloads.sources["wav"]) / 3


def test_every_fault_is_a_row_with_its_reason(downloads: Downloads) -> None:
    names = ["forbidden", "refused", "busy", "failing", "cut", "slow", "noise", "silent", "patchy"]
    sections = {"good": 1, **dict.fromkeys(("gone", *names), 5), "partly": 25, "after": 40}
    downloads.table(*((name, start, start + 10) for name, start in sections.items()))
    downloads.host("good", *names, "partly", "after")
    media = downloads.media
    media.status = {"forbidden.webm": [403], "failing.webm": [500], "busy.webm": [429, 200]}
    media.media_status = {"refused.webm": 403}
    media.cut, media.patchy, media.slow = {"cut.webm": 100_000}, {"patchy.webm"}, {"slow.webm": 3.5}
    media.files |= {"noise.webm": bytes(range(256)) * 40, "silent.webm": b""}
    code, output, errors = downloads.run("--timeout", 3, "--workers", 6, "--tries", 2)
    assert code == 1, errors
    assert downloads.reasons() == {
        **dict.fromkeys(("good", "busy", "patchy"), "ok"),
        **dict.fromkeys(("gone", "noise", "silent", "partly", "after"), "gone"),
        **dict.fromkeys(("forbidden", "refused"), "blocked"),
        **dict.fromkeys(("failing", "cut", "slow"), "again"),
    }
    assert downloads.wavs() == ["busy.wav", "good.wav", "patchy.wav"]
    assert "3 of 13 clips" in output
    assert downloads.rows()["failing"]["tries"] == 2
    assert "5.00 s" in downloads.rows()["partly"]["message"]


def test_the_next_run_tries_what_may_pass_and_retry_everything(downloads: Downloads) -> None:
    downloads.offer("good", "refused", absent=["gone"])
    downloads.media.status = {"refused.webm": [403]}
    assert downloads.run()[0] == 1
    downloads.host("gone")
    downloads.media.status.clear()
    code, output, _ = downloads.run()
    assert (code, downloads.reasons()["gone"]) == (1, "gone")
    assert "left alone without --retry" in output
    assert downloads.wavs() == ["good.wav", "refused.wav"]
    assert downloads.run("--retry")[0] == 0
    assert downloads.wavs() == ["gone.wav", "good.wav", "refused.wav"]
    assert downloads.media.begun["good.webm"] == 1
    assert len(downloads.lines()) == 5


def test_limit_split_and_ids_choose_the_clips(downloads: Downloads) -> None:
    downloads.table(
        ("a", 1, 2), ("b", 1, 2, True), ("-c", 1, 2, False, True), ("d", 1, 2, True, True)
    )
    downloads.host("a", "b", "-c", "d")
    assert downloads.run("--limit", 1)[0] == 0
    assert downloads.wavs() == ["a.wav"]
    assert downloads.run("--split", "balanced")[0] == 0
    assert downloads.wavs() == ["a.wav", "b.wav", "d.wav"]
    ids = downloads.folder / "ids.txt"
    ids.write_text("-c\n\n-c\n")
    assert "1 of 1 clips" in downloads.run("--ids", ids)[1]
    assert downloads.wavs() == ["-c.wav", "a.wav", "b.wav", "d.wav"]
    ids.write_text("a\nnobody\n")
    code, _, errors = downloads.run("--ids", ids)
    assert code == 2
    assert "correct or remove nobody" in errors
    (downloads.folder / "table.csv").unlink()
    assert "2 of 2 clips" in downloads.run("--split", "eval")[1]


def test_another_sample_rate_fetches_again(downloads: Downloads) -> None:
    downloads.offer("a")
    downloads.run()
    assert downloads.run("--sample_rate", 16000)[0] == 0
    info = soundfile.info(downloads.data_dir / "a.wav")
    assert (info.samplerate, info.frames) == (16000, 32000)


def test_audio_that_is_there_whole_needs_no_host(downloads: Downloads) -> None:
    downloads.table(("-a", 4.25, 6))
    (downloads.folder / "whole files").mkdir()
    (downloads.folder / "whole files" / "-a.m4a").write_bytes(downloads.sources["m4a"])
    template = f"file://{downloads.folder}/whole files/{{ytid}}.m4a"
    assert downloads.run("--url_template", template)[0] == 0
    assert downloads.rows()["-a"]["duration"] == 1.75


def test_a_host_that_cannot_be_reached_is_tried_again(downloads: Downloads) -> None:
    downloads.offer("a")
    code, _, _ = downloads.run("--url_template", "http://127.0.0.1:9/{ytid}", "--tries", 2)
    assert code == 1
    assert (downloads.rows()["a"]["reason"], downloads.rows()["a"]["tries"]) == ("again", 2)
    assert "Connection refused" in downloads.rows()["a"]["message"]


def test_a_run_that_is_refused_everything_stops_and_says_what_to_do(downloads: Downloads) -> None:
    names = [f"clip{number}" for number in range(20)]
    downloads.offer(*names)
    downloads.media.status = {f"{name}.webm": [403] for name in names}
    code, output, errors = downloads.run("--workers", 2)
    assert code == 1
    assert "stopped early" in errors
    assert "--cookies" in errors
    assert 8 <= len(downloads.lines()) < 12
    assert "to do" in output


def test_a_host_that_asks_for_time_gets_it_from_everybody(downloads: Downloads) -> None:
    downloads.offer("busy", "other")
    downloads.media.status = {"busy.webm": [429, 200]}
    downloads.media.retry_after = {"busy.webm": 1}
    assert downloads.run("--workers", 1)[0] == 0
    times = [at for at, name in downloads.media.requests if name == "busy.webm"]
    assert times[1] - times[0] > 0.95


def test_cookies_go_to_the_host_and_their_file_stays_as_it_is(downloads: Downloads) -> None:
    downloads.offer("a")
    cookies = downloads.folder / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tof-mine\n"
    cookies.write_text(text)
    cookies.chmod(0o400)
    assert downloads.run("--cookies", cookies)[0] == 0
    # the first is yt-dlp's; ffmpeg compares a cookie's domain with host:port, and here is a port
    assert downloads.media.cookies[0] == "session=of-mine"
    assert cookies.read_text() == text


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--workers", "0"], "--workers"),
        (["--url_template", "http://host/x"], "{ytid}"),
        (["--proxy", "socks5://x:1"], "--proxy"),
        (["--cookies", "nothing.txt"], "nothing.txt"),
        (["--cookies", "no_cookies.txt"], "cookies cannot be read"),
        (["--ids", "no_cookies.txt"], "is no id; write one a line"),
        (["--cookies_from_browser", "lynx"], "lynx"),
        (["--split", "train"], "split"),
    ],
)
def test_wrong_usage_ends_before_anything_is_done(
    downloads: Downloads, options: list[str], word: str
) -> None:
    downloads.offer("a")
    (downloads.folder / "no_cookies.txt").write_text("{json: no}\n")
    code, _, errors = downloads.run(*options)
    assert code == 2
    assert word in errors
    assert downloads.media.requests == []


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
