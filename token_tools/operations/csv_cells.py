"""How is a value written into a CSV cell, so that a spreadsheet shows it as it is?

Spreadsheets guess. They round a number to 15 digits, take `1e5` for a number and `1-2` for a date, and calculate what
begins like a formula. An id is therefore `id:184…`, just as a user may be `auth_id:500`: with a letter in it, nothing
is rounded, and every tool and command here takes that spelling.
"""

import json
import re
from typing import Final

from token_tools.cluster.identity import FORMULA_STARTS

_FORMULA_START: Final = re.compile(rf"(?<!\w)[{re.escape(FORMULA_STARTS)}]")
"""What makes a spreadsheet read a cell as a formula. Some spreadsheets begin a cell after a semicolon or a space."""


def format_id_cell(token_id: str) -> str:
    """Return the cell of a token's id."""
    return _escape_formula(f"id:{token_id}")


def format_user_cell(user: str) -> str:
    """Return the cell of a user's spelling. A bare name stands between quotes, in which it is the same user."""
    is_text = not user or ":" in user or user.startswith('"')
    return _escape_formula(user if is_text else json.dumps(user))


def format_text_cell(text: str) -> str:
    """Return the cell of a text; one that would be a formula stands between JSON's quotes."""
    return text if _escape_formula(text) == text else _escape_formula(json.dumps(text, ensure_ascii=False))


def _escape_formula(cell: str) -> str:
    """Return a cell without anything that begins a formula.

    Between JSON's quotes an escape means the same character, and elsewhere our cells have no such characters.
    """
    return _FORMULA_START.sub(lambda match: f"\\u{ord(match[0]):04x}", cell)
