"""How finely does a card count its energy, and does the count agree with its power? CUDA machines only.

    python experiments/speed/energy_steps.py --seconds 10

Reads `gpuqa.machine.hardware.energy_j` and `conditions` as often as they answer, and prints one line of JSON: how long a
reading takes, how far apart two changes of the counter are, and watts by the counter beside the mean of NVML's power.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time

from gpuqa.machine import hardware


def main() -> None:
    """Read until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    end = time.monotonic() + parser.parse_args().seconds
    readings, powers, clocks = [], [], set()
    while time.monotonic() < end:
        before = time.monotonic()
        joules = hardware.energy_j(1)
        readings.append((before, time.monotonic() - before, joules))
        if len(readings) % 20 == 0:
            for now in hardware.conditions():
                powers.append(now.power_w)
                clocks.add((now.sm_clock_mhz, now.memory_clock_mhz, *now.throttle_reasons))
    if readings[0][2] is None:
        print(json.dumps({"energy": None, "conditions": len(powers)}))
        return
    moved = [later for earlier, later in itertools.pairwise(readings) if later[2] != earlier[2]]
    seconds, joules = readings[-1][0] - readings[0][0], readings[-1][2] - readings[0][2]
    steps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(moved)]
    found = {"readings": len(readings), "ms_a_reading": statistics.median(took for _, took, _ in readings) * 1000}
    found |= {"steps": len(moved), "ms_a_step": statistics.median(steps) * 1000, "longest_step_ms": max(steps) * 1000}
    found |= {"joules": joules, "watts_by_energy": joules / seconds, "watts_by_power": statistics.fmean(powers)}
    print(json.dumps({**found, "clocks": sorted(map(list, clocks), key=str)}))


if __name__ == "__main__":
    main()
