"""Adversarially robust training with class-wise results, on PyTorch alone. Neither Ray nor MLflow is needed.

config       Trial: one training run, fully resolved, and its fingerprint
data         named data sets and any folder of class folders
models       networks by name
attacks      the one projected-gradient loop
objectives, mining, calibration, averaging   the four choices of a method
training     train(trial): a generator of epoch results
evaluation   per-image predictions under an attack
run          one trial in its folder, continued wherever it stopped
__main__     python -m ham_core train|evaluate
"""

__version__ = "0.1.0"
