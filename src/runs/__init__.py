"""One run: its settings, what it lacks, its parts, its records, the judging of its clips."""
