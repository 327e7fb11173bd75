"""Downloads the weight files of verifiers: `python verifier_server.py --fetch clap quality`.

Those of the judges too, by the judges' names: `--fetch kld_pq` gets PaSST. Judges that hear through
one network need the same files: kld_pq, kld_qp and kld_both; clap_score those of `clap`.

What is there is left alone. What is not is downloaded (src/weights/download.py): a download that is
cut goes on where it stopped, in the same run or the next, and a file takes its name only when it is
whole and its hash is right.

Hub files go into CURATOR_WEIGHTS, or into the hub's own cache when that is not set; files from
elsewhere into CURATOR_WEIGHTS or the user's cache. HF_ENDPOINT, HF_TOKEN and proxies are honoured.
"""

import logging
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from src.data import hub
from src.judges.registry import JUDGES
from src.verifier_core import VERIFIERS, NotHosted
from src.weights.download import Unreachable, address, download
from src.weights.files import (
    WeightFile,
    WeightsError,
    absent,
    find,
    is_non_commercial,
    locate,
)

logger = logging.getLogger(__name__)


def fetch(names: Sequence[str]) -> int:
    """Get every file of the named verifiers and judges. Returns 0, or 1 when one cannot be had.

    Raises NotHosted for a name that is neither a verifier's nor a judge's.
    """
    if not names:
        raise NotHosted(f"--fetch which? There are {_known()}")
    needed = {name: files_of(name) for name in names}
    for name in needed:
        _say_licence(name)
    problems = _get(dict.fromkeys(file for files in needed.values() for file in files))
    for problem in problems:
        logger.error("%s", problem)
    if incomplete := [name for name, files in needed.items() if absent(files)]:
        logger.error(
            "not complete: %s; the same command goes on where this one stopped",
            ", ".join(incomplete),
        )
    if problems or incomplete:
        return 1
    for name in needed:
        logger.info("%s: every file is there", name)
    return 0


def files_of(name: str) -> tuple[WeightFile, ...]:
    """What a verifier or a judge needs. Raises NotHosted for a name that is neither's."""
    if name in VERIFIERS:
        return VERIFIERS[name](name).files
    if name in JUDGES:
        return JUDGES[name].listener_class.files
    raise NotHosted(f"{name}: no such verifier or judge; there are {_known()}")


def _known() -> str:
    judges = [name for name, judge in JUDGES.items() if judge.listener_class.files]
    return f"{', '.join(VERIFIERS)}; and the judges {', '.join(judges)}"


def _say_licence(name: str) -> None:
    own = VERIFIERS[name](name).licence if name in VERIFIERS else JUDGES[name].licence
    text = "; ".join(dict.fromkeys([own, *(f.licence for f in files_of(name) if f.licence)]))
    if is_non_commercial(text):
        logger.warning("%s: NOT FOR COMMERCIAL USE; licence: %s", name, text)
    else:
        logger.info("%s: licence: %s", name, text)


def _get(files: Iterable[WeightFile]) -> list[str]:
    """Download the files that are not there; what went wrong, in a sentence each."""
    problems: list[str] = []
    silent = set[str]()  # hosts that did not answer: none is waited for twice
    for file in files:
        host = urlsplit(address(file)).netloc
        try:
            if find(file):
                locate(file)  # is it what it should be?
            elif offline := [name for name in hub.OFFLINE_VARIABLES if hub.is_offline(name)]:
                return [
                    *problems,
                    f"{offline[0]} is set, so that nothing may be downloaded: unset it",
                ]
            elif host not in silent:
                logger.info("%s is there and whole", download(file))
        except (WeightsError, OSError) as error:
            problems.append(str(error))
            if isinstance(error, Unreachable):
                silent.add(host)
    return problems
