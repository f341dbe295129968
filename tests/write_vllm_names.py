"""Write down which of the names in `gpuqa.engines.vllm.compat` a release of vLLM has, for `test_compat.py`.

pip download --no-deps --dest wheels vllm==0.33.0
unzip -q wheels/vllm-0.33.0-*.whl 'vllm/*.py' -d unpacked
python tests/write_vllm_names.py 0.33.0 unpacked/vllm > tests/vllm_names/0.33.0.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from gpuqa.engines.vllm.compat import TABLES, names_below
from gpuqa.engines.vllm.defined_names import ENTRY


def main() -> None:
    """Print the file."""
    version, folder = sys.argv[1:]
    print(json.dumps({"version": version, "modules": modules(Path(folder))}, indent=1, sort_keys=True))


def modules(folder: Path) -> dict[str, Any]:
    """For each module in the tables: the sha256 of its source, and of the names that are used those it has, with their
    parameters (null: it takes none)."""
    entries: dict[str, set[str]] = {}
    for table in TABLES.values():
        for module, names in table.items():
            entries.setdefault(module, set()).update(str(ENTRY.match(entry)["name"]) for entry in names)  # type: ignore[index]
    return {module: described(folder, module, names) for module, names in entries.items()}


def described(folder: Path, module: str, names: set[str]) -> dict[str, Any]:
    """One module of a copy of vLLM's package folder."""
    defined, path = names_below(folder, module), folder.joinpath(*module.split(".")[1:])
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"sha256": digest, "names": {name: defined[name] for name in sorted(names & defined.keys())}}


if __name__ == "__main__":
    main()
