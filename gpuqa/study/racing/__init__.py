"""The race: a slice of the questions for every cell, all of them only for cells that may still win (`study.racing=true`).

    race_plan    rounds of passes on one engine, as the race wants them
    race         which passes a cell gets next, in which order engines start, which cells are dropped and why
    elimination  whether a constraint or a leader rules a cell out
    evidence     bounds on what a cell would reach, by the passes that it has so far

From below: evidence -> elimination -> race -> race_plan. All but race_plan are pure: the same passes lead to the same
decisions, so an interrupted race walks through its journal to where it was, and recorded studies can be raced again
(tests/race_replay.py).
"""
