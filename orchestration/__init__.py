"""The only place that knows Ray and MLflow: sweeps, plans, the trial store, the runner, tracking and the command line."""
