"""The race: a slice of the questions for every cell, all of them only for who may still win (`study.racing=true`).

    heat         an engine is up: rounds of passes, as the race asks for them, each in the journal before the next
    race         what a cell is asked next, in which order engines start, who is out and why
    elimination  whether a floor, a guard, a cap or a leader rules a cell out
    evidence     bounds on what a cell would reach, by what it was asked so far

From below: evidence -> elimination -> race -> heat. All but heat are pure: the same passes lead to the same decisions, so an
interrupted race walks through its journal to where it was, and recorded studies can be raced again (tests/race_replay.py).
"""
