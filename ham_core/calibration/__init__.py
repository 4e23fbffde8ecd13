"""Per-class margin, loss weight and regularisation from class-wise statistics, renewed once per epoch."""

INDEX = {
    "cfa": "ham_core.calibration.cfa:Cfa",
    "frl": "ham_core.calibration.frl:Frl",
    "dafa": "ham_core.calibration.dafa:Dafa",
    "wat": "ham_core.calibration.wat:Wat",
    "cfol": "ham_core.calibration.cfol:Cfol",
    "fixed": "ham_core.calibration.fixed:Fixed",
}
