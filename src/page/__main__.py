"""python -m src.page RUN_DIR: write a run's listening page, whether the run is finished or not."""

import sys

from src.again import again
from src.page import write_page

if __name__ == "__main__":
    what = "Write a run's listening page, whether the run is finished or not."
    sys.exit(again("src.page", what, lambda folder: str(write_page(folder))))
