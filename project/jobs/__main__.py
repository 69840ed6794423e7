"""Do one job and print its steps: ``python -m project.jobs NAME``."""

import json
import sys

from . import JOBS

for step in JOBS[sys.argv[1]].steps():
    print(json.dumps(step), flush=True)
