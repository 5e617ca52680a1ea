"""Cases that Schemathesis makes of the interface's description, sent to a service of a made-up shop: none may fail.

python tests/service/schema_cases.py SCHEMATHESIS FOLDER [CASES]

SCHEMATHESIS is the program, which has an environment of its own. Ids that it makes up are unknown: 404 and 409 are
answers to them, and so is every other status below 500.
"""

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
OPERATIONS = 12  # fewer than the interface has: cases are at least as many as asked for
GENERATED = re.compile(r"([\d,]+) generated")


def main(schemathesis: str, folder: Path, cases: int) -> int:
    shop = subprocess.Popen(
        [sys.executable, str(SHOP), str(folder), "lac", "gpt"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert shop.stdout is not None
        serving = next(line for line in shop.stdout if " at http://" in line)
        url = "http://" + serving.strip().rpartition("http://")[2]
        command = [schemathesis, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), "--seed", "1"]
        command += ["--max-examples", str(-(-cases // OPERATIONS)), "--suppress-health-check", "all"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(done.stdout)
        found = GENERATED.search(done.stdout)
        assert found, "schemathesis says how many cases it made"
        made = int(found[1].replace(",", ""))
        print(
            f"{made:,} cases, {cases:,} asked for; the service {'lives' if shop.poll() is None else 'died'}"
        )
        return done.returncode or int(made < cases or shop.poll() is not None)
    finally:
        shop.terminate()
        shop.wait(60)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10_000))
