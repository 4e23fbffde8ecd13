"""The sweeps, one YAML file per experiment. A package only so that the files ship with the wheel."""
