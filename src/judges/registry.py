"""Judges: measures of final clips that no search saw.

    judge = JUDGES["msd_kld"]("cpu")
    judge.judge([clip], [prompt])   # one float per clip; judge.higher_is_better tells the direction

The registry; what a judge is stands in src/judges/base.py. Besides these, every verifier of the
server can judge under its own name (src/judges/served.py).

The primary judge of the built-in stack, fixed before any result was seen, is `msd_kld`: another
data set than the verifier's, and it compares with reference audio instead of reading the prompt. No
torch is imported until a judge is used.
"""

from src.judges.base import ClipJudge, Judge, JudgeError, SetJudge
from src.judges.clap_score import ClapScore
from src.judges.fad import FadClap, FadMsd
from src.judges.passt import KldBoth, KldPq, KldQp
from src.judges.tags import MsdKld, MsdVggKld, MttVgg

__all__ = [
    "JUDGES",
    "ClipJudge",
    "Judge",
    "JudgeError",
    "SetJudge",
]

JUDGES: dict[str, type[Judge]] = {
    judge.name: judge
    for judge in (
        *(MsdKld, MttVgg, MsdVggKld, FadMsd),
        *(ClapScore, KldPq, KldQp, KldBoth, FadClap),
    )
}
