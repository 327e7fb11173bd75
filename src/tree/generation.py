"""What a search needs of a generator: what it does, whatever its class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from src.data.audio import Clip


class Candidates(Protocol):
    """A batch of unfinished clips, prompt-major: row = prompt * candidates + slot, until `keep`.

    `tokens()` is int64 [rows, codebooks, finished frames]; `mean_log_prob()` float32 [rows], over
    codebooks and finished frames: with the text or, where `guided`, without it; NaN for a row in
    which the model overflowed; `mean_log_sampled()`, likewise, of the distribution that tokens were
    drawn from. `select`: row i becomes the old row rows[i], in its own slot.
    `keep`: go on with these rows alone, in order, equally many of each prompt.
    """

    @property
    def guided(self) -> bool: ...
    @property
    def rows(self) -> int: ...
    @property
    def finished(self) -> int: ...
    def advance(self, frames: int, greedy: bool = False) -> None: ...
    def select(self, rows: Sequence[int]) -> None: ...
    def keep(self, rows: Sequence[int]) -> None: ...
    def mark(self) -> Any: ...
    def rewind(self, mark: Any) -> None: ...
    def tokens(self) -> Any: ...
    def mean_log_prob(self, conditional: bool = True) -> Any: ...
    def mean_log_sampled(self) -> Any: ...


class Generator(Protocol):
    """Begins candidates and renders tokens int64 [B, codebooks, frames] to clips.

    `begin`: each prompt's candidates have the slots from `first` on, and begin with the tokens that
    are `given` of it, [codebooks, frames].
    `settled`: the beginning of a clip that nothing but its first so many frames has a part in, or
    None; `render_rest`: as `render`, where such beginnings, all of one length, are there already.
    """

    def begin(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        candidates: int,
        frames: int,
        seed: int,
        first: int = 0,
        given: "Sequence[NDArray[np.int16]] | None" = None,
    ) -> Candidates: ...
    def render(self, tokens: Any) -> "list[Clip]": ...
    def render_rest(self, tokens: Any, beginnings: "Sequence[Clip]") -> "list[Clip]": ...
    def settled(self, clip: "Clip", frames: int) -> "Clip | None": ...
    def synchronize(self) -> None: ...
