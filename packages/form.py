"""How a file that a package consists of is written."""

import json


def format_json(value: object) -> str:
    """Return a value as JSON for people: indented, with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
