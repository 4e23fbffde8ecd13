"""The tests. A package, so that a `tests` of somebody else in site-packages (RobustBench brings one) is not found first."""
