"""The commands of Tokentill's processes, from the `Procfile` that hosting platforms read too."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commands(path: Path = ROOT / "Procfile") -> dict[str, str]:
    """Process name -> the command line that a POSIX shell runs for it."""
    found = {}
    for line in path.read_text().splitlines():
        name, colon, command = line.partition(":")
        if colon and not name.startswith("#"):
            found[name] = command.strip()
    return found
