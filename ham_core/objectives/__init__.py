"""What the attack maximises and what the model minimises. One line per objective."""

INDEX = {
    "at": "ham_core.objectives.at:AT",
    "trades": "ham_core.objectives.trades:Trades",
}
