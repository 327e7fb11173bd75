"""How a latency run's results are written: tables and sentences for people, CSV for programs.

    python -m src.reports.latency_tables results/latency-builtin-perplexity-1a2b3c4d

prints the tables of a finished run and writes its summary.csv, costs.csv and lines.csv anew.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.reports.command import again
from src.reports.latency_findings import bracketed, figures, findings, verdict
from src.reports.latency_summary import LatencySummary, summarise
from src.reports.text import columns, wrapped, write_csv
from src.stats.intervals import Interval

__all__ = ["summarise", "text_table", "write_csvs"]

MEGABYTE = 1e6


def text_table(found: LatencySummary) -> str:
    """What each cell took, where its time went, and what it costs beside others."""
    title = found.manifest["title"]
    if not found.cells:
        return "\n".join(wrapped([title, "No repetition is finished.", *findings(found)]))
    lines: list[str] = []
    for table, left in (
        (_seconds(found), (0,)),
        (_stages(found), (0,)),
        (_costs(found), (0, 1, 6)),
        (_equals(found), (0,)),
    ):
        if len(table) > 1:
            lines += ["", *columns(table, left)]
    rule = "-" * max(map(len, lines))
    return "\n".join([*wrapped([title]), rule, *lines[1:], rule, *wrapped(findings(found))])


def write_csvs(found: LatencySummary, folder: Path) -> None:
    """summary.csv: a row a cell. costs.csv: a row a cell that has something to be compared with.
    lines.csv: a row a method. Seconds are a prompt's; low and high end a 95% interval; what is not
    known is empty."""
    stages = list(next(iter(found.cells.values())).stages) if found.cells else []
    names = ("method", "candidates", "beam_width", "lookahead_k")
    rows: list[Sequence[Any]] = [
        (
            *(*names, "repetitions", "prompts", "frames", "clips", "uploaded_bytes"),
            *("seconds", "low", "high", "lower_quartile", "upper_quartile", "real_time_factor"),
            *(f"{stage}_seconds" for stage in stages),
            *("gpu_bytes", "resident_bytes", "server_bytes"),
        )
    ]
    for cell, own in found.cells.items():
        numbers = [*own.interval, *own.quartiles, own.real_time_factor, *own.stages.values()]
        counts = (*own.seconds.shape, own.cost.frames, own.cost.clips, f"{own.uploaded_bytes:g}")
        memory = (own.memory[name] for name in ("gpu", "resident", "server"))
        rows.append((*asdict(cell).values(), *counts, *map(_plain, numbers), *memory))
    write_csv(folder / "summary.csv", rows)
    rows = [
        (
            *(*names, "against", "claimed_frames", "frames", "clips", "seconds", "low", "high"),
            *("equal_frames_n", "equal_frames_seconds", "equal_frames_low", "equal_frames_high"),
            *("equal_seconds_n", "equal_seconds_low", "equal_seconds_high"),
        )
    ]
    for cell in found.cells:
        row: list[Any] = list(asdict(cell).values())
        beside, equal = found.comparisons.get(cell), found.equals.get(cell)
        if beside is None and equal is None:
            continue
        row += (
            [beside.against.name, *map(_plain, (beside.claimed, beside.frames, beside.clips))]
            if beside
            else [""] * 4
        )
        row += _three(beside.seconds if beside else None)
        row += [_plain(equal.frames_n) if equal else ""]
        row += _three(equal.frames_seconds if equal else None)
        rows.append([*row, *_three(equal.seconds_n if equal else None)])
    write_csv(folder / "costs.csv", rows)
    rows = [
        (
            *("method", "cells", "fixed_seconds", "fixed_low", "fixed_high"),
            *("seconds_per_frame", "per_frame_low", "per_frame_high", "worst_residual"),
        )
    ]
    for method, line in found.lines.items():
        rows.append(
            [
                *(method, line.cells, *_three(line.fixed)),
                *(*_three(line.per_frame), _plain(line.worst)),
            ]
        )
    write_csv(folder / "lines.csv", rows)


def _seconds(found: LatencySummary) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            *("per prompt", "frames", "clips", "MB up", "seconds", "quartiles"),
            *("RTF", "peak MB", "server MB"),
        )
    ]
    for cell, own in found.cells.items():
        # The GPU's where there is one: what a search is short of.
        peak = own.memory["resident"] if own.memory["gpu"] is None else own.memory["gpu"]
        rows.append(
            (
                *(cell.name, f"{own.cost.frames:,}", f"{own.cost.clips:,}"),
                f"{own.uploaded_bytes / MEGABYTE:.1f}",
                *(figures(own.median), " - ".join(map(figures, own.quartiles))),
                figures(own.real_time_factor),
                *(_megabytes(peak), _megabytes(own.memory["server"])),
            )
        )
    return rows


def _stages(found: LatencySummary) -> list[tuple[str, ...]]:
    cells = found.cells
    used = [
        s for s in next(iter(cells.values())).stages if any(c.stages[s] for c in cells.values())
    ]
    rows: list[tuple[str, ...]] = [("seconds by stage", *used)]
    return rows + [
        (cell.name, *(figures(own.stages[stage], decimals=3) for stage in used))
        for cell, own in cells.items()
    ]


def _costs(found: LatencySummary) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("as a multiple of", "", "claimed", "frames", "clips", "seconds", "")
    ]
    return rows + [
        (
            *(cell.name, beside.against.name, f"{beside.claimed:g}"),
            *(f"{beside.frames:.3g}", f"{beside.clips:.3g}", bracketed(beside.seconds)),
            verdict(beside),
        )
        for cell, beside in found.comparisons.items()
    ]


def _equals(found: LatencySummary) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("best_of_n instead of", "at equal frames: N", "its time x", "at equal seconds: N")
    ]
    return rows + [
        (
            *(cell.name, figures(equal.frames_n)),
            bracketed(equal.frames_seconds, "not measured"),
            bracketed(equal.seconds_n, "not measured"),
        )
        for cell, equal in found.equals.items()
    ]


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / MEGABYTE:,.0f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _three(value: Interval | None) -> list[str]:
    return [""] * 3 if value is None else [_plain(x) for x in value]


def write_tables(found: LatencySummary, folder: Path) -> str:
    """Write a run's CSV files and return its table."""
    write_csvs(found, folder)
    return text_table(found)


if __name__ == "__main__":
    what = "Print what a run of latency_experiment.py found and write its CSV files."
    sys.exit(
        again(
            "src.reports.latency_tables",
            what,
            lambda folder: write_tables(summarise(folder), folder),
        )
    )
