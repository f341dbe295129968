"""The space of prompts and the search in it: prompts that are made, asked on slices of questions, and thinned out.

space, examples, leaks   what a prompt may be made of, and that no measured question is in it
splits                   which questions search, which choose, which are kept for the end
searcher, objective      which prompt is asked which slice next; pure, so that a simulation runs the same code
effects                  how good a prompt is, by its own answers and by those of prompts with the same pieces
cost                     what a prompt's tokens cost, before it is measured
engine_run, journal      the passes on real engines, kept so that a killed search goes on
proposer                 another model that may write prompts
outcome, page            what was found: a prompt file, the front, the family tree
"""
