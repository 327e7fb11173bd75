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
from collections.abc import Sequence
from urllib.parse import urlsplit

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
    failed = False
    silent = set[str]()  # hosts that did not answer: none is waited for twice
    for file in dict.fromkeys(file for files in needed.values() for file in files):
        try:
            if find(file):
                locate(file)  # is it what it should be?
            elif urlsplit(address(file)).netloc not in silent:
                logger.info("%s is there and whole", download(file))
        except (WeightsError, OSError) as error:
            logger.error("%s", error)
            failed = True
            if isinstance(error, Unreachable):
                silent.add(urlsplit(address(file)).netloc)
    for name, files in needed.items():
        if absent(files):
            failed = True
            logger.error("not complete: %s; the same command goes on where this one stopped", name)
        else:
            logger.info("%s: every file is there", name)
    return int(failed)


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
