"""How likely rows are that are being decoded, from the log-probabilities of their tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Likelihoods(ABC):
    """Of rows whose tokens' log-probabilities are known. guided: also without the text."""

    guided: bool

    @abstractmethod
    def all_log_probs(self) -> Tensor:
        """float32 [halves + 1, rows, codebooks, finished], in nats: as `log_probs`, and last by the
        distribution that tokens were drawn from. Raises ValueError for what is not known."""

    @torch.inference_mode()
    def log_probs(self) -> Tensor:
        """float32 [halves, rows, codebooks, finished], in nats: of each token with the text and,
        where decoding is guided, without it. Raises ValueError for what is not known."""
        return self.all_log_probs()[:-1]

    @torch.inference_mode()
    def mean_log_prob(self, conditional: bool = True) -> Tensor:
        """float32 [rows]: the mean over codebooks and finished frames, in nats.

        Of the distribution with the text or, where decoding is guided, without it; before guidance,
        at temperature 1. NaN for a row in which the model overflowed, with the text or without it:
        its tokens mean nothing. Raises ValueError for what is not known.
        """
        if not (conditional or self.guided):
            raise ValueError("without guidance nothing is decoded without its text")
        means = self.log_probs().mean((2, 3))
        return torch.where(means.isfinite().all(0), means[0 if conditional else 1], torch.nan)

    @torch.inference_mode()
    def mean_log_sampled(self) -> Tensor:
        """float32 [rows]: the mean, likewise, of the logarithm of the probability with which each
        token was drawn: at the temperature, guided, among the k best; 0 for tokens that were
        given. Of drawn tokens; greedy ones could not all have been."""
        return self.all_log_probs()[-1].mean((1, 2))
