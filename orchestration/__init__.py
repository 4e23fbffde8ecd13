"""From a sweep's YAML file to trained, evaluated and recorded trials. The only room that knows Ray and MLflow.

sweep.py      YAML -> trials and evaluations
plan.py       what is done, what is missing, and why
store.py      the trial store on disk
remote.py     the trial store on object storage; with states.py, lease.py and objects.py, the only file that imports fsspec
dispatch.py   which job is next, and what becomes of one that failed
packing.py    how many trials share a GPU
disk.py       bytes: the estimate, the budget, what a finished trial keeps
engine.py     Ray Tune; the only file that imports ray
tracking.py   MLflow, writing and reading; the only file that imports mlflow
cli/          `ham ...`
"""
