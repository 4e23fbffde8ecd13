"""Which adversarial examples are trained on, and with which weight. One line per mining."""

INDEX = {
    "ham": "ham_core.mining.ham:Ham",
    "drop_overconfident": "ham_core.mining.drop_overconfident:DropOverconfident",
    "gairat": "ham_core.mining.gairat:Gairat",
    "ohem": "ham_core.mining.ohem:Ohem",
    "focal": "ham_core.mining.focal:Focal",
    "class_balanced": "ham_core.mining.class_balanced:ClassBalanced",
}
