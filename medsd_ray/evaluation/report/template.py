"""How a report's page is made of its template."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medsd_ray.evaluation.report.format import FORMS, interval_words, number, percent, span, words


def render_template(package: str, name: str, **values: Any) -> bytes:
    """The page of the template `name` in a package. Everything is escaped: names, prompts, keys and paths
    come from outside.
    """
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "span": span, "words": words}
    environment.filters["interval"] = lambda section, name, form="number": interval_words(
        section, name, FORMS[form]
    )
    return environment.get_template(name).render(**values).encode()
