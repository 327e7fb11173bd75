"""Make a blind listening test of two methods of a run: a page, and its key.

Both clips of a pair are cut to the shorter one, brought to one loudness and written as FLAC into
the page, so that nothing but their sound tells them apart. No torch before a test is made.
"""

import base64
import io
import math
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from src.data.audio import Clip, read_audio
from src.reports.listening import Key, ListeningError, Pair
from src.reports.page import HERE as SHARED
from src.reports.page import link, one_file
from src.runs.records import Record, read_records, records_digest, without_tree

HERE = Path(__file__).parent
LOUDNESS = -16.0  # LKFS (ITU-R BS.1770-4), as streaming services have it
PEAK = -1.0  # dB of full scale that no sample passes
SHORTEST = 0.4  # seconds: one block of BS.1770-4
SAME = 1e-3  # samples that differ less are of the same tokens, rendered in another batch


def make_test(
    run: Path,
    methods: tuple[str, str],
    questions: Mapping[str, str],
    repeats: int = 0,
    pairs: int | None = None,
    seed: str | None = None,
) -> tuple[Key, str]:
    """A test's key and its page.

    questions: by name. repeats: pairs that are shown twice. pairs: how many prompts to draw; None
    for all. seed: None draws one that nobody knows. Raises ListeningError, RunFolderError,
    AudioError.
    """
    found = clips_of(run, methods)
    seed = secrets.token_hex(16) if seed is None else seed
    random = Random(seed)
    prompts = sorted(name for name, clips in found.items() if len(clips) == 2)
    if not prompts:
        raise ListeningError(f"{run} has no prompt with a clip of both {' and '.join(methods)}")
    random.shuffle(prompts)
    key: dict[str, Pair] = {}
    shown: list[dict[str, str]] = []
    identical = []
    first = random.randrange(2)  # every other pair has the other method first
    for prompt in prompts[:pairs]:
        clips = [read_audio(run / found[prompt][method]["audio"]) for method in methods]
        one, two = matched(*clips)
        if np.allclose(one.samples, two.samples, atol=SAME):
            identical.append(prompt)
            continue
        sides = [(methods[0], one), (methods[1], two)]
        if (len(key) + first) % 2:
            sides.reverse()
        (a, heard_a), (b, heard_b) = sides
        name = str(len(key) + 1)
        key[name] = Pair(prompt=prompt, a=a, b=b)
        text = found[prompt][a]["prompt"]
        shown.append({"id": name, "text": text, "a": flac(heard_a), "b": flac(heard_b)})
    for name in random.sample(list(key), min(repeats, len(key))):
        pair, again = key[name], str(len(key) + 1)
        key[again] = Pair(prompt=pair.prompt, a=pair.b, b=pair.a, again=True)
        shown.append({"id": again, "of": name})
    made = Key(
        seed=seed,
        run=run.resolve().name,
        records=records_digest(run),
        methods=methods,
        questions=dict(questions),
        pairs=key,
        identical=tuple(identical),
        left_out=tuple(sorted(set(found) - set(prompts))),
    )
    if not key:
        raise ListeningError(f"{' and '.join(methods)} have the same clip of every prompt")
    page = one_file(
        HERE / "test.html",
        scripts=[SHARED / "markup.js", HERE / "test.js"],
        styles=[SHARED / "base.css", HERE / "test.css"],
        media="data:",
        data={"page": made.page, "questions": list(questions), "pairs": shown},
        questions=made.questions,
    )
    return made, "".join(page)


def clips_of(run: Path, methods: Sequence[str]) -> dict[str, dict[str, Record]]:
    """By prompt and method, the records whose audio is there; prompts that lack one included.

    Raises ListeningError, RunFolderError.
    """
    heads = read_records(run, without_tree).heads.values()
    records = [r for r in heads if r["kind"] == "search"]
    known = dict.fromkeys(r["method"] for r in records)
    if lacking := [method for method in methods if method not in known]:
        raise ListeningError(
            f"{run} has no {' and no '.join(lacking)}; it has {', '.join(known) or 'no search'}"
        )
    found: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in (r for r in records if r["method"] in methods):
        clips = found[record["prompt_id"]]
        if link(run, record.get("audio")):
            if record["method"] in clips:
                raise ListeningError(f"{run} has several settings of {record['method']}")
            clips[record["method"]] = record
    if not any(found.values()):
        raise ListeningError(
            f"{run} has no audio of {' and '.join(methods)} to listen to. Benchmarks save it with "
            "--save_audio winners, their default."
        )
    return found


def matched(one: Clip, two: Clip) -> tuple[Clip, Clip]:
    """Both clips as long as the shorter one and equally loud: at LOUDNESS, or at what is less the
    loudest at which no sample of either passes PEAK. One without loudness stays as it is.
    """
    length = min(one.samples.shape[1], two.samples.shape[1])
    clips = [Clip(clip.samples[:, :length], clip.rate) for clip in (one, two)]
    levels = np.array([loudness(clip) for clip in clips])
    peaks = 20 * np.log10([max(np.abs(clip.samples).max(), 1e-9) for clip in clips])
    target = np.nanmin([LOUDNESS, *(levels + PEAK - peaks)])
    gains = np.where(np.isnan(levels), 1, 10 ** ((target - levels) / 20)).astype(np.float32)
    first, second = (Clip(c.samples * gain, c.rate) for c, gain in zip(clips, gains, strict=True))
    return first, second


def loudness(clip: Clip) -> float:
    """LKFS by ITU-R BS.1770-4; NaN for silence and for clips that are too short to have one."""
    import torch
    from torchaudio.functional import loudness

    if clip.seconds < SHORTEST or not clip.samples.any():
        return math.nan
    return float(loudness(torch.from_numpy(clip.samples.copy()), clip.rate))


def flac(clip: Clip) -> str:
    """16 bits, in base64: no name, no date, nothing but the samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.samples.T, clip.rate, format="FLAC", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()
