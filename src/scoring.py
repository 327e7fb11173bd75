"""What a verifier is, before any is there: what it sees, what it answers, how it is named.

    0.7*tags+perplexity      an expression of several (`parse`): a sum,
    min(tags,pmi)            or min, mean or lcb of members, each of them an expression again
    medoid(tags)             how near a candidate is to the others, by a verifier's embedding
    tags, clap, ...          over HTTP, from the verifier server
    perplexity               exp(mean log p(x|c)), the inverse perplexity, in (0, 1]
    pmi                      mean of log p(x|c) - log p(x), in nats a token: what the text adds

Higher is better, always. The last two come with the tokens and cost nothing beyond decoding: p(x|c)
is the model's probability of a token given its past and the text, p(x) that without the text; means
are over codebooks and finished frames. Classifier-free guidance computes both anyway, so `pmi` is
free under guidance and unknown without it. (A pointwise mutual information per token; as an
objective of decoding: Li et al., arXiv 1510.03055.)

An expression's verifiers have different units, so each number x counts in units of its spread among
candidates of one prompt: x / deviation in a sum. Where there is a function, levels matter as well,
and every verifier counts as (x - mean) / deviation. Mean and deviation are constants: a candidate's
number depends on no other candidate, so that what follows of best-of-n is exact. A medoid alone is
relative: to the prompt's other candidates that are scored with it, or to all of a pool.

Nothing heavy is imported: every command line begins here.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from src.budget import Ledger
    from src.data.audio import Clip
    from src.protocol import Checkpoint, NoScore, Score

Array = NDArray[np.float64]

# Of members' numbers, [members, ..], and of lambda: [..]. NaN where a member's is.
LCB = "lcb"
FUNCTIONS: dict[str, Callable[[Array, float], Array]] = {
    "min": lambda members, _: members.min(axis=0),
    "mean": lambda members, _: members.mean(axis=0),
    LCB: lambda members, pessimism: members.mean(axis=0) - pessimism * members.std(axis=0),
}
MEDOID = "medoid"
MOST_WEIGHT = 1e9  # numbers stay finite
MOST_BRACKETS = 32  # they are read, and valued, by recursion
_TOKEN = re.compile(r"[^\s+*(),;]+|[+*(),;]")

PERPLEXITY = "perplexity"
PMI = "pmi"  # known under guidance only
LIKELIHOODS = (PERPLEXITY, PMI)


def known(guidance: float) -> tuple[str, ...]:
    """Those of LIKELIHOODS that decoding with this guidance gives."""
    return LIKELIHOODS if guidance != 1 else (PERPLEXITY,)


def likelihood(name: str, log_prob: ArrayLike, unconditional: ArrayLike | None) -> Array:
    """One of LIKELIHOODS, from mean log-probabilities in nats, of the same shape, with the text and
    without it; pmi needs both."""
    conditional = np.asarray(log_prob, dtype=np.float64)
    if name == PERPLEXITY:
        return np.exp(conditional)
    return conditional - np.asarray(unconditional, dtype=np.float64)


class VerifierError(RuntimeError):
    """Scores could not be had."""


class ExpressionError(ValueError):
    """A --verifier that cannot be understood; the message shows how to write one."""


@dataclass(frozen=True)
class ScoreInput:
    """A candidate, as verifiers see it.

    clip: None where no verifier of the run hears audio. log_prob: mean conditional log-probability
    over codebooks and finished frames, in nats; unconditional: the same without the text, None
    where decoding is not guided. frames: finished. key: of the prompt; two may have the same text.
    """

    prompt: str
    clip: "Clip | None"
    log_prob: float
    unconditional: float | None = None
    frames: int = 0
    key: str = ""


class Verifier(Protocol):
    """name: `canonical`. checkpoints: by component verifier."""

    name: str
    needs_audio: bool
    checkpoints: "dict[str, Checkpoint]"

    def score(self, inputs: Sequence[ScoreInput]) -> "list[Score | NoScore]":
        """One per input, in order. Raises VerifierError when the verifier itself fails."""

    def take_usage(self) -> "Ledger":
        """What `score` used since this was last called: bytes, and seconds by stage."""


@dataclass(frozen=True)
class Expression:
    """A verifier (no members), a sum of members (function ""), or what a function makes of them.

    name: the verifier's; a medoid is one, of that name. weight: in the sum that this is a member
    of. pessimism: lambda of lcb.
    """

    name: str = ""
    function: str = ""
    members: tuple["Expression", ...] = ()
    weight: float = 1.0
    pessimism: float = 0.0

    def __str__(self) -> str:
        weight = "" if self.weight == 1 else f"{self.weight!r}*"
        if not self.function:
            return weight + (self.name or "+".join(map(str, self.members)))
        more = f";{self.pessimism!r}" if self.function == LCB else ""
        return f"{weight}{self.function}({','.join(map(str, self.members))}{more})"

    @property
    def verifiers(self) -> tuple[str, ...]:
        """Those that it is made of, each once."""
        found = (name for member in self.members for name in member.verifiers)
        return tuple(dict.fromkeys(found)) or (self.name,)

    @property
    def is_relative(self) -> bool:
        """Whether it depends on which candidates are scored together."""
        return any(map(is_medoid, self.verifiers))

    @property
    def is_centred(self) -> bool:
        """Whether means count: whether there is a function."""
        return bool(self.function) or any(member.is_centred for member in self.members)

    def value(
        self,
        numbers: Mapping[str, ArrayLike],
        deviations: Mapping[str, float],
        means: Mapping[str, float],
    ) -> Array:
        """From each verifier's numbers, of one shape. means: none for a sum."""
        if self.name:
            x = np.asarray(numbers[self.name], dtype=np.float64) - means.get(self.name, 0.0)
            return np.asarray(self.weight * x / deviations[self.name])
        found = np.array([member.value(numbers, deviations, means) for member in self.members])
        if not self.function:
            return np.asarray(found.sum(axis=0))
        return self.weight * FUNCTIONS[self.function](found, self.pessimism)


@cache
def parse(text: str) -> Expression:
    """What a --verifier says.

    >>> str(parse("min( tags, 0.5*pmi + tags_vgg )"))
    'min(tags,0.5*pmi+tags_vgg)'
    Raises ExpressionError.
    """
    return _Reader(text).whole()


def components(text: str) -> tuple[str, ...]:
    """The verifiers that a --verifier is made of, each once. Raises ExpressionError."""
    return parse(text).verifiers


def canonical(text: str) -> str:
    """How runs, folders and tables name a --verifier. Raises ExpressionError.

    Verifiers and sums are named as they were written: so all versions have named their runs.
    """
    found = parse(text)
    return str(found) if found.is_centred or found.is_relative else text


class _Reader:
    """Recursive descent, a method for each rule:

    sum   = term {"+" term}
    term  = [number "*"] atom
    atom  = verifier | "medoid" "(" verifier ")" |
            function "(" sum "," sum {"," sum} [";" number] ")"
    """

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens = [(found.group(), found.start()) for found in _TOKEN.finditer(text)]

    def whole(self) -> Expression:
        if self.text.count("(") > MOST_BRACKETS:
            raise self.error(f"has more than {MOST_BRACKETS} brackets")
        found = self.sum()
        if self.at < len(self.tokens):
            raise self.expected("'+' or the end")
        return found

    def medoid(self) -> Expression:
        """What follows the word."""
        name = self.peek(1)
        if not (self.peek() == "(" and name.isidentifier() and self.peek(2) == ")"):
            raise self.error("medoid is of one verifier, as in medoid(tags)")
        if name in LIKELIHOODS:
            raise self.error(f"{name} has no embedding; medoid is of a verifier of the server")
        self.at += 3
        return Expression(f"{MEDOID}({name})")

    def sum(self) -> Expression:
        is_weighted = self.peek(1) == "*"
        terms = [self.term()]
        while self.takes("+"):
            terms.append(self.term())
        self.refuse_twice(replace(term, weight=1.0) for term in terms)
        return Expression(members=tuple(terms)) if is_weighted or len(terms) > 1 else terms[0]

    def term(self) -> Expression:
        if self.peek(1) != "*":
            return self.atom()
        weight = self.peek()
        self.at += 2
        return replace(self.atom(), weight=self.positive(weight, "the weight"))

    def atom(self) -> Expression:
        name = self.peek()
        if name[:1].isalnum() and not name.isidentifier():
            raise self.error(f"{name!r} is no verifier's name; a weight is written 0.7*tags")
        if not name.isidentifier():
            raise self.expected("a verifier's name")
        self.at += 1
        if name == MEDOID:
            return self.medoid()
        if not self.takes("("):
            return Expression(name)
        if name not in FUNCTIONS:
            raise self.error(f"{name} is no function; there are {', '.join(FUNCTIONS)}")
        members, pessimism = [self.sum()], 0.0
        while self.takes(","):
            members.append(self.sum())
        if name == LCB:
            if not self.takes(";"):
                raise self.expected("',', or ';' and lambda (';1.0')")
            pessimism = self.positive(self.peek(), "lambda")
            self.at += 1
        if not self.takes(")"):
            raise self.expected("')'" if name == LCB else "',' or ')'")
        if len(members) < 2:
            raise self.error(f"{name} needs two members or more")
        self.refuse_twice(members)
        return Expression(function=name, members=tuple(members), pessimism=pessimism)

    def peek(self, ahead: int = 0) -> str:
        """A token from here; "" beyond the end."""
        rest = self.tokens[self.at + ahead :]
        return rest[0][0] if rest else ""

    def takes(self, sign: str) -> bool:
        """Whether it comes next; then it is behind us."""
        found = self.peek() == sign
        self.at += found
        return found

    def positive(self, word: str, what: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not 0 < number <= MOST_WEIGHT:
            raise self.error(f"{what} {word!r} is not a positive number, {MOST_WEIGHT:g} at most")
        return number

    def refuse_twice(self, members: Iterable[Expression]) -> None:
        names = [str(member) for member in members]
        if twice := [name for name in names if names.count(name) > 1]:
            raise self.error(f"names {twice[0]} twice")

    def expected(self, what: str) -> ExpressionError:
        here = [start for _, start in self.tokens[self.at :][:1]]
        where = f"before {self.text[here[0] :]!r}" if here else "at its end"
        return ExpressionError(
            f"{self.text!r} is not a verifier or an expression of them: {what} is expected "
            f"{where}; write tags, tags+perplexity, 0.7*tags+0.3*perplexity or min(tags,pmi)"
        )

    def error(self, what: str) -> ExpressionError:
        return ExpressionError(f"{self.text!r}: {what}")


def is_medoid(verifier: str) -> bool:
    return verifier.startswith(f"{MEDOID}(")


def host_of(verifier: str) -> str:
    """The server's verifier that it is, or whose embeddings it is the medoid of."""
    return verifier.removeprefix(f"{MEDOID}(").removesuffix(")")


def remote_parts(names: Iterable[str]) -> list[str]:
    """The server's verifiers that are needed for these, each once."""
    return list(dict.fromkeys(host_of(name) for name in names if name not in LIKELIHOODS))
