"""Take the picture of the documentation: run a drill, then photograph its run's page in Prefect.

`python docs/take_pictures.py "CAMERA"`: CAMERA is a command that is called with a URL, a PNG file and a
size like 1280x800, and takes a picture of that page with a real browser once it is drawn.
"""

import argparse
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from responder.cli.drill import run_drill
from responder.installation import Installation
from responder.lab.scenario import load_scenario

PICTURE = Path(__file__).parent / "pictures" / "run.png"
SIZE = "1280x1330"
SETTLE_S = 8  # task rows reach Prefect's server seconds late


def main() -> None:
    """Run the drills and take the picture of the first. Raises CalledProcessError when the camera fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camera", help="command that takes URL, file and size")
    parser.add_argument("--scenarios", nargs="+", default=["process-crash"])
    parser.add_argument("--keep", action="store_true", help="keep the server afterwards, to look around in it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, Installation(Path(home)) as installation:
        drills = [run_drill(load_scenario(name), installation, seed=None) for name in options.scenarios]
        time.sleep(SETTLE_S)
        subprocess.run([*shlex.split(options.camera), drills[0]["run_url"], str(PICTURE), SIZE], check=True)
        while options.keep:
            time.sleep(1)


if __name__ == "__main__":
    main()
