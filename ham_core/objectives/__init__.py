"""What the attack maximises and what the model minimises. One line per objective."""

INDEX = {
    "standard": "ham_core.objectives.standard:Standard",
    "at": "ham_core.objectives.at:AT",
    "trades": "ham_core.objectives.trades:Trades",
    "mart": "ham_core.objectives.mart:Mart",
    "fat": "ham_core.objectives.fat:Fat",
    "fast_at": "ham_core.objectives.fast_at:FastAT",
    "free_at": "ham_core.objectives.free_at:FreeAT",
    "awp": "ham_core.objectives.awp:Awp",
    "hat": "ham_core.objectives.hat:Hat",
    "bat": "ham_core.objectives.bat:Bat",
    "faal": "ham_core.objectives.faal:Faal",
}
