"""Which adversarial examples are trained on, and with which weight. One line per mining."""

INDEX = {
    "ham": "ham_core.mining.ham:Ham",
    "drop_overconfident": "ham_core.mining.drop_overconfident:DropOverconfident",
}
