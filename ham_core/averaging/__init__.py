"""Second sets of weights, averaged over time. They watch the training and never change it. One line per average."""

INDEX = {
    "ema": "ham_core.averaging.ema:Ema",
    "seat": "ham_core.averaging.seat:Seat",
    "fawa": "ham_core.averaging.fawa:Fawa",
}
