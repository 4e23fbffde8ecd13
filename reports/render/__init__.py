"""One Table, four formats; all print the same `Cell.text`."""
