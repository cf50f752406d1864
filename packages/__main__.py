"""Write the files of the repository that hosts and registries read; with `bundle`, the bundle into `dist` instead."""

import sys

from packages.bundle import write_bundle
from packages.files import create_files
from packages.project import ROOT

if sys.argv[1:] == ["bundle"]:
    sys.stdout.write(f"{write_bundle(ROOT / 'dist')}\n")
elif sys.argv[1:]:
    sys.exit("python -m packages takes `bundle` or nothing.")
else:
    for path, content in create_files().items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(content)
