"""The tests, as a package of their own: another one of this name may be installed."""
