"""Writes into the chart's values.schema.json what a Runtime is (`make crds`), so that Helm refuses a wrong
field of runtime.spec.

The rest of values.schema.json is written by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from medsd_ray.spec.runtime import RuntimeSpec

PATH = Path(__file__).parents[1] / "helm/medsd/values.schema.json"


def render(text: str) -> str:
    """values.schema.json with the definitions of the models in place of those that it has."""
    values = json.loads(text)
    spec = RuntimeSpec.model_json_schema()
    definitions = spec.pop("$defs")
    spec["required"].remove("image")  # the chart's own, unless given
    values["$defs"] = {"RuntimeSpec": spec} | definitions
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    old = PATH.read_text()
    new = render(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            print(f"{PATH.name}: not what the models say; run `make crds`", file=sys.stderr)
            return 1
    else:
        PATH.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
