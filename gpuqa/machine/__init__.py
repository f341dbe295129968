"""The machine: its hardware, the processes below this one, and what engines print."""
