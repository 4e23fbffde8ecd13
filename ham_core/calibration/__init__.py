"""Per-class margin, loss weight and regularisation from class-wise statistics, renewed once per epoch."""

INDEX = {
    "cfa": "ham_core.calibration.cfa:Cfa",
}
