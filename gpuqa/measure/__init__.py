"""One cell under a clock and a score: passes, numbers, statistics, and the fingerprint of all that the numbers depend on."""
