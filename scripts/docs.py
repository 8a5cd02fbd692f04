"""Bring the documents up to date: run the commands they show, and put in what these print.

usage: docs.py [FILE ...]        (README.md and docs/*.md by default)

A block that a script owns looks like this; the text between the fences is replaced:

    <!-- run: dsv4c inspect plans/docs kernels -->
    ```text
    ...
    ```

Commands run in the repository's root with its virtual environment first on the path; one that fails
ends the script, and its page stays as it was.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(<!-- run: (?P<command>.+?) -->\n```(?P<kind>\w+)\n)(?P<old>.*?)(```\n)", re.DOTALL
)


def main() -> None:
    """Rewrite the files that changed."""
    named = [Path(name).resolve() for name in sys.argv[1:]]
    for path in named or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        made = BLOCK.sub(_filled, text)
        if made != text:
            path.write_text(made, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'rewritten' if made != text else 'unchanged'}")


def _filled(block: re.Match[str]) -> str:
    bin_folder = str(ROOT / ".venv" / "bin")
    env = {**os.environ, "PATH": bin_folder + os.pathsep + os.environ["PATH"], "NO_COLOR": "1"}
    env["COLUMNS"] = "100"
    done = subprocess.run(
        block["command"],
        shell=True,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"  exit {done.returncode}: {block['command']}")
    if done.returncode:
        sys.exit(done.stdout)
    lines = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    output = "\n".join(lines).replace(str(ROOT) + "/", "")
    return f"{block[1]}{output}\n{block[5]}"


if __name__ == "__main__":
    main()
