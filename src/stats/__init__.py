"""What numbers mean: intervals, exact best-of-n, timings, Frechet distance."""
