"""`medsd evaluate`: reads the images, has every figure computed, writes report.json and report.html."""

from __future__ import annotations

import time

from medsd_ray.addresses import path_of
from medsd_ray.console import stage
from medsd_ray.errors import InputError
from medsd_ray.evaluation.figures.sets import assign
from medsd_ray.evaluation.inputs import read_inputs
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.options import EvaluationOptions
from medsd_ray.evaluation.protocols import PROTOCOLS
from medsd_ray.models.resolve import resolve
from medsd_ray.runs.record import read_run


def evaluate(options: EvaluationOptions, *, extra: dict | None = None, say: Say = print_line) -> dict:
    """Measures generated images against real ones and writes report.json and report.html.

    Where `options.out` holds a report of the same images and settings, nothing is computed.

    Args:
        options: The images, the networks and the settings.
        extra: Sections to add to the report by name, each a dict of figures or a list of dicts.
        say: Is told where the computation stands, a line at a time.

    Returns:
        What report.json holds.

    Raises:
        InputError: Images, weights or the run's record are missing or cannot be read.
    """
    started = time.monotonic()
    check_named(options)
    inputs = read_inputs(options.real, options.generated, options.base, options.label)
    sets, record = assign(inputs, options.held_out), read_run(options.run)
    stage("loading torch")
    from medsd_ray.evaluation.measure import report_on

    return report_on(options, inputs, sets, record, extra or {}, say, started)


def check_named(options: EvaluationOptions) -> None:
    """Raises InputError for a network that is named and not there; none is loaded."""
    if options.lpips and not options.vae:
        raise InputError("--lpips measures a VAE's reconstructions; name the model with --vae")
    files, folders = [options.inception, options.xrv, options.lpips], [options.clip]
    if protocol := options.protocol:
        if protocol.name not in PROTOCOLS:
            raise InputError(f"protocol {protocol.name!r} is not known; choose {' or '.join(PROTOCOLS)}")
        files.append(protocol.siamese)
        folders += [protocol.rad_dino, protocol.alignment]
    for address in files:
        if address and "://" not in address and not path_of(address).is_file():
            raise InputError(f"{address}: no such weight file; give the path of one on this machine")
    for address in folders:
        if address and "://" not in address and not path_of(address).is_dir():
            raise InputError(f"{address}: no such folder; give that of a model on this machine")
    if options.vae:
        resolve(options.vae)
