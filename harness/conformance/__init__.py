"""The contract of training methods as checks that run: `harness check METHOD`, or `pytest --harness-method METHOD`.

`case.py` finds a method's cases by itself, `suite.py` is the table of all checks, `run.py` runs them. A check is a
function of a case whose docstring is the fact that it states; it raises AssertionError where the fact does not hold.
"""
