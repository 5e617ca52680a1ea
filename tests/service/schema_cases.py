"""Cases that Schemathesis makes of the interface's description, sent to a service of a made-up shop: none may fail.

python tests/service/schema_cases.py SCHEMATHESIS FOLDER [CASES]

SCHEMATHESIS is the program, which has an environment of its own. It runs with one seed after the other until there are
so many cases. Ids that it makes up are unknown: 404 and 409 are answers to them, as is every other status below 500.
"""

import itertools
import re
import subprocess
import sys
from pathlib import Path

SHOP = Path(__file__).parents[1] / "browser" / "served_page.py"
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "unsupported_method",
    "allow_header_conformance",
]
EXAMPLES = 50  # of an operation and a seed: many more at once take ever longer
GENERATED = re.compile(r"([\d,]+) generated")


def cases_of(schemathesis: str, url: str, seed: int, folder: Path) -> int:
    """How many cases a seed gave. Raises CalledProcessError where one failed, whose report is shown.

    Args:
        folder: where Schemathesis keeps what it has met.
    """
    command = [schemathesis, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), "--seed", str(seed)]
    command += ["--max-examples", str(EXAMPLES), "--suppress-health-check", "all"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    found = GENERATED.search(done.stdout)
    if done.returncode or found is None:
        print(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, command)
    return int(found[1].replace(",", ""))


def main(schemathesis: str, folder: Path, cases: int) -> None:
    shop = subprocess.Popen(
        [sys.executable, str(SHOP), str(folder), "lac", "gpt"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert shop.stdout is not None
        serving = next(line for line in shop.stdout if " at http://" in line)
        url, made = "http://" + serving.strip().rpartition("http://")[2], 0
        for seed in itertools.count(1):
            made += cases_of(schemathesis, url, seed, folder)
            assert shop.poll() is None, "the service died"
            print(f"{made:,} of {cases:,} cases, none failed", flush=True)
            if made >= cases:
                return
    finally:
        shop.terminate()
        shop.wait(60)


if __name__ == "__main__":
    main(
        str(Path(sys.argv[1]).absolute()),
        Path(sys.argv[2]).absolute(),
        int(sys.argv[3]) if len(sys.argv) > 3 else 10_000,
    )
