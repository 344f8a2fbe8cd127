"""Choice among methods."""

from policyopt.methods.row import Row

ROWS = (
    Row("auto", "choice", "whichever of several does best at the budget says so",
        "this project; one-standard-error rule of Breiman et al., CART", 1984, "section 3.4.3",
        "policyopt.methods.auto:Auto", "The default: never far below the best simple rule.",
        online=False, seconds=(10, 4.5)),
)  # fmt: skip
