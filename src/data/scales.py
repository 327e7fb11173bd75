"""The constants of weighted sums: how far a verifier's scores spread within a prompt.

    python -m src.experiments.calibration --profile builtin --server auto --verifiers tags pmi

makes a pool of candidates per prompt, scores it, and writes each verifier's within-prompt standard
deviation with where it came from. A sum divides by it, so that a weight means the same for every
verifier. Constants belong to one generator's and one verifier's weights, told by their hashes.
No torch: every run reads them.
"""

import logging
import shlex
from pathlib import Path

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from src.data.files import ROOT
from src.protocol import Checkpoint

logger = logging.getLogger(__name__)

BUILTIN_FILE = ROOT / "builtin" / "calibration.json"
FOLDER = Path("results") / "calibration"


class CalibrationError(ValueError):
    """Constants that are absent or damaged; the message says how to make them."""


class Constant(BaseModel, frozen=True):
    """One verifier's spread, and where the figure came from."""

    checkpoint: Checkpoint
    deviation: FiniteFloat = Field(gt=0, description="within-prompt standard deviation")
    mean: FiniteFloat
    prompts: str = Field(description="the prompt set")
    prompts_sha256: str
    num_prompts: int = Field(description="those that had a score")
    candidates: int = Field(description="per prompt")
    duration: float = Field(description="seconds of a clip")
    seed: int
    temperature: float
    top_k: int
    guidance: float
    dtype: str
    commit: str | None
    date: str = Field(description="UTC")


class Calibration(BaseModel):
    """All constants of one generator."""

    generator: Checkpoint
    constants: dict[str, Constant] = Field(default_factory=dict, description="by verifier")

    def scales(self, generator: Checkpoint, verifiers: dict[str, Checkpoint]) -> dict[str, float]:
        """Standard deviation by verifier. Raises CalibrationError for any that is absent."""
        known = self.constants if self.generator.sha256 == generator.sha256 else {}
        absent = [
            name
            for name, checkpoint in verifiers.items()
            if name not in known or known[name].checkpoint.sha256 != checkpoint.sha256
        ]
        if absent:
            source = (
                "--profile builtin"
                if generator.name == "builtin"
                else f"--model {shlex.quote(generator.name)}"
            )
            raise CalibrationError(
                f"a sum needs the spread of {', '.join(absent)} under {generator.name} "
                f"({generator.sha256[:8]}), which was not measured with these weights. Measure it: "
                f"python -m src.experiments.calibration {source} --verifiers {' '.join(verifiers)}"
            )
        return {name: known[name].deviation for name in verifiers}


def calibration_file(generator: Checkpoint, folder: Path) -> Path:
    """Where a generator's constants are kept: the built-in one's beside its weights."""
    if generator.name == "builtin":
        return BUILTIN_FILE
    slug = "".join(c if c.isalnum() else "-" for c in Path(generator.name).name)
    return folder / f"{slug}-{generator.sha256[:8]}.json"


def load_calibration(generator: Checkpoint, folder: Path = FOLDER) -> Calibration:
    """A generator's constants; none when they were never measured. Raises CalibrationError."""
    path = calibration_file(generator, folder)
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Calibration(generator=generator)
    except (OSError, ValidationError) as error:
        raise CalibrationError(f"{path} cannot be used: {error}") from error
    if found.generator.sha256 != generator.sha256:
        logger.warning("%s was measured with other weights of %s", path, generator.name)
        return Calibration(generator=generator)
    return found
