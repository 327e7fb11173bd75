"""python -m src.reports.page RUN_DIR: write a run's listening page, finished or not."""

import sys

from src.reports.command import again
from src.reports.page import write_page

if __name__ == "__main__":
    what = "Write a run's listening page, whether the run is finished or not."
    sys.exit(again("src.reports.page", what, lambda folder: str(write_page(folder))))
