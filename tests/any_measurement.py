"""A measurement for tests that need one and no engine: a different value of the right type in every field."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from gpuqa.records import Conditions, Device, Interval, Measurement, RampThird

READINGS = [Conditions(1980, 3201, 61, 412.5, ["sw_power_cap"]), Conditions(345, 2600, 40, 80.0, ["gpu_idle"])]


def any_measurement(**numbers: Any) -> Measurement:
    """Every field filled, so that a swap or a loss shows, but for the `numbers` that the test gives."""
    values: dict[str, Any] = {}
    hints = get_type_hints(Measurement)
    for place, name in enumerate(field.name for field in fields(Measurement)):
        kind = next((part for part in get_args(hints[name]) if part is not type(None)), hints[name])
        kind = hints[name] if get_origin(hints[name]) is list else kind
        values[name] = {
            int: place,
            float: place + 0.125,
            bool: place % 2 == 0,
            Interval: Interval(place - 0.1, place + 0.1),
            list[float]: [place + 0.5, place + 0.25],
            list[str]: ["sw_power_cap"],
            list[Conditions]: READINGS,
            list[Device]: [Device("a machine", "a card", "GPU 0")],
            list[RampThird]: [RampThird(1.5, 1.25, 20.0, None)],
        }[kind]
    return Measurement(**{**values, **numbers})
